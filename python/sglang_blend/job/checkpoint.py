"""Whether a job begins, goes on or is finished: its result files and the identity beside them.

checkpoint = Checkpoint(config, files, engine_argv)
checkpoint.finished()                    # the summary of a job that is done; nothing is read
checkpoint.identify(batch)               # results of another job stop this one here
earlier = checkpoint.recover(index)      # what is done is marked in the index
checkpoint.open()                        # from here on files change
checkpoint.finish_files(index, ...)      # what is published is what was counted
checkpoint.finish(summary, ...)          # only now the job is done
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sglang_blend.config import JobConfig, JobFiles
from sglang_blend.errors import ConfigError
from sglang_blend.job.batch_file import BatchFile
from sglang_blend.job.earlier import Census, Recovered, recover
from sglang_blend.job.engine_flags import answer_flags, flags_digest
from sglang_blend.job.identity import Finished, JobIdentity, load_identity
from sglang_blend.job.line_index import LineIndex
from sglang_blend.job.output import JobOutput
from sglang_blend.job.parts import Parts
from sglang_blend.job.result_file import Arrange, ResultFile, parts_folder
from sglang_blend.job.sorting import in_input_order
from sglang_blend.job.source import stamp_of
from sglang_blend.job.summary import Summary, Tally
from sglang_blend.job.tables import PARQUET_MAGIC
from sglang_blend.location import Location, in_words, may_pass, remove, size_of

logger = logging.getLogger(__name__)

# 255 on most disks, less the longest that is put around a name: `.NAME.partial.jsonl.tmp`.
MAX_NAME_BYTES = 255 - 20


class Checkpoint:
    """The state that a job finds and leaves on the storage."""

    def __init__(self, config: JobConfig, files: JobFiles, engine_argv: Sequence[str]) -> None:
        """Make the checkpoint of a job; nothing is read yet.

        Raises:
            ConfigError: a result cannot be a file, or Parquet is asked for without pyarrow.
        """
        _refuse_places(files)
        self._config = config
        self._files = files
        self._answers = ResultFile(
            files.output,
            files.work_dir,
            as_parquet=files.output_format == "parquet",
            as_parts=config.sharded_output,
        )
        self._errors = ResultFile(files.error_file, files.work_dir)
        self.output = JobOutput(self._answers, self._errors, fsync_interval_s=config.fsync_interval)
        self._found = Recovered(bytearray(), bytearray(), Tally())
        self.is_open = False
        with _readable(files.identity_file):
            self._known = None if config.overwrite else load_identity(files.identity_file)
        self._identity = JobIdentity(
            input_sha256="",  # set by identify
            input_stamp=stamp_of(files.file),
            reading=config.reading.to_json(),
            flags=answer_flags(engine_argv),
            refusals=[*_versions(), flags_digest(engine_argv)],
        )

    def finished(self) -> Summary | None:
        """What was said at the end of this job, where there is nothing left to do."""
        known, mine = self._known, self._identity
        if known is None or known.finished is None or not self._config.resume:
            return None
        same = mine.input_stamp is not None and known.input_stamp == mine.input_stamp
        with _readable(self._files.output):
            self._refuse_other_format()
            if not same or known.finished.sizes != self._sizes():
                return None
        if replace(mine, input_sha256=known.input_sha256).difference(known) is not None:
            return None
        if known.finished.summary["failed"] and not self._config.keep_errors:
            may_help = known.finished.num_unsettled or known.refusals != mine.refusals
            if self._config.retry_errors or may_help:
                return None
        if self._config.sort_output and not known.finished.sorted:
            return None
        try:
            return Summary.from_json(known.finished.summary)
        except TypeError:  # another version's
            return None

    def identify(self, batch: BatchFile) -> None:
        """Look at the input and hold it against the results that are there.

        Raises:
            ConfigError: they are not this job's, or may not be touched.
        """
        self._identity = replace(self._identity, input_sha256=batch.sha256())
        with _readable(self._files.output):
            self._refuse_other_form()
            if not self._config.overwrite:
                self._refuse_other_format()
            existing = [file.place for file in (self._answers, self._errors) if file.exists()]
        if self._config.overwrite or not existing:
            self._known = None
            return
        choice = "pass --overwrite to replace it, or name another --output"
        if not self._config.resume:
            raise ConfigError(f"{existing[0]} exists already: {choice}.")
        if self._known is None:
            raise ConfigError(
                f"{existing[0]} exists already, and no {self._files.identity_file} says that it is this "
                f"job's: {choice}."
            )
        difference = self._identity.difference(self._known)
        if difference is not None:
            raise ConfigError(f"{existing[0]} belongs to another job ({difference}): {choice}.")

    def recover(self, index: LineIndex) -> Tally:
        """Read what earlier runs finished into `index`; changes no file.

        Returns:
            The counts of what is in the files.
        """
        if self._known is not None:
            self._found = recover(index, self._answers, self._errors, is_final=self._is_final)
            if self._config.keep_errors:  # they are what the earlier flags said
                self._identity = replace(self._identity, refusals=self._known.refusals)
        return self._found.tally

    def open(self) -> None:
        """Open `output` for what is not done yet. After `recover`.

        Raises:
            ConfigError: the identity cannot be written.
            OutputError: a damaged file cannot be mended.
        """
        if isinstance(self._files.summary_file, Path):
            with contextlib.suppress(OSError):  # told when the summary is saved
                self._files.summary_file.parent.mkdir(parents=True, exist_ok=True)
        self.is_open = True
        self.output.open(self._found.keep_answers, self._found.keep_errors)
        self._identity.save(self._files.identity_file)

    def finish_files(self, index: LineIndex, tally: Tally) -> None:
        """Bring both files into the form they were asked for, whole and on the storage. While claimed.

        Args:
            tally: of all records, those of earlier runs included.

        Raises:
            OutputError: one cannot be written, or does not hold what was counted; its records stay.
        """
        self.output.sync()
        self.output.check()
        answers = Census(index, self._answers.growing, tally.ok)
        errors = Census(index, self._errors.growing, tally.failed, of_errors=True)
        for file, census in ((self._answers, answers), (self._errors, errors)):
            file.finish(self._arranged(census), anew=self._config.sort_output)
        self.output.check()

    def finish(self, summary: Summary, num_unsettled: int) -> None:
        """Note the end of the job, so that running it again takes no time. After `finish_files`."""
        if stamp_of(self._files.file) != self._identity.input_stamp:
            logger.warning(
                "%s is not what it was when this job began; the results are those of its old content.",
                self._files.file,
            )
        finished = Finished(
            sizes=self._sizes(),
            sorted=self._config.sort_output,
            num_unsettled=num_unsettled,
            summary=summary.to_json(),
        )
        replace(self._identity, finished=finished).save(self._files.identity_file)

    def clean_up(self) -> None:
        """Delete what the files were made from. After `finish`: what stays here is never looked at again."""
        for file in (self._answers, self._errors):
            try:
                file.remove_journal()
            except OSError as e:
                logger.warning("%s is not needed any more and cannot be deleted (%s).", file.growing, e)

    @property
    def growing(self) -> Location:
        """Where answers are while the job is not done."""
        return self._answers.growing

    def forget(self) -> None:
        """Leave nothing of a job that was opened and wrote no record."""
        remove(self._files.identity_file)

    def _is_final(self, is_refusal: bool) -> bool:
        if self._config.keep_errors or self._config.retry_errors:
            return self._config.keep_errors
        assert self._known is not None, "there are records to judge"
        return is_refusal and self._known.refusals == self._identity.refusals

    def _arranged(self, census: Census) -> Arrange:
        """All lines, counted; in the order of the input where that is asked for."""

        def in_order(lines: Iterator[bytes]) -> Iterator[bytes]:
            yield from in_input_order(lines, census.numbers, self._files.work_dir)
            census.close()

        return in_order if self._config.sort_output else census.counted

    def _sizes(self) -> dict[str, int]:
        return {file.place.name: file.num_bytes() for file in (self._answers, self._errors)}

    def _refuse_other_form(self) -> None:
        """Parts and one file would be two outputs of one job.

        Raises:
            ConfigError: the output is there in the form that was not asked for.
        """
        output = self._files.output
        if self._config.sharded_output:
            if size_of(output) is not None:
                raise ConfigError(
                    f"{output} exists already as one file: leave out --sharded-output to go on with it, or "
                    "name another --output."
                )
        elif isinstance(output, Path) and Parts(parts_folder(output)).exists():
            raise ConfigError(
                f"{parts_folder(output)} exists already: pass --sharded-output to go on with it, or name "
                "another --output."
            )

    def _refuse_other_format(self) -> None:
        """A file that is done is not converted; only a local one is looked into.

        Raises:
            ConfigError: the output is Parquet and was to be JSON Lines, or the other way round.
        """
        output, wanted = self._files.output, self._files.output_format
        if not isinstance(output, Path) or not size_of(output):
            return
        with output.open("rb") as file:
            is_parquet = file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
        if is_parquet != (wanted == "parquet"):
            found = "Parquet" if is_parquet else "JSON Lines"
            raise ConfigError(
                f"{output} exists already as {found} and is not converted: for {wanted} name another "
                "--output, or pass --overwrite; either runs the job anew."
            )


def _refuse_places(files: JobFiles) -> None:
    """Of results that could not be read again, that a file would be put in place of, or not beside."""
    for option in ("output", "error_file", "summary_file"):
        place = getattr(files, option)
        if not isinstance(place, Path):
            continue
        is_other = os.path.exists(place) and not (os.path.isfile(place) or os.path.isdir(place))
        if is_other or place.name == "-" or place.parent == Path("/dev"):
            flag = f"--{option.replace('_', '-')}"
            raise ConfigError(f"{flag} {place} is no file on a disk, which a job needs to go on: name one.")
        if len(os.fsencode(place.name)) > MAX_NAME_BYTES:
            raise ConfigError(
                f"{in_words(place)} is too long a name: a job needs names beside it that are longer, so "
                f"{MAX_NAME_BYTES} bytes are allowed."
            )


@contextlib.contextmanager
def _readable(place: Location) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise ConfigError(
            f"{place} cannot be read ({e.strerror or e}): mend that, or name another.", may_pass=may_pass(e)
        ) from e


def _versions() -> list[str]:
    versions = []
    for package in ("sglang-blend", "sglang"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} absent")
    return versions
