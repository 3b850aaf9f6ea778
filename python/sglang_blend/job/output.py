"""The two result files of a job: answers, and everything refused or failed.

Line order is the order of finishing: match on custom_id. A thread puts what was written on disk every
`--fsync-interval` seconds, so neither the engine nor the next line waits for the disk.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sglang_blend.errors import OutputError
from sglang_blend.job.journal import Journal
from sglang_blend.job.records import Record
from sglang_blend.jsonl import json_bytes

logger = logging.getLogger(__name__)


class JobOutput:
    """Both files. A context manager that claims them, and closes what it has opened.

    A job that fails before its first record leaves no files: the corrected command can be given as it is.
    """

    def __init__(self, answers: Journal, errors: Journal, *, fsync_interval_s: float) -> None:
        self._answers = answers
        self._errors = errors
        self._sync_thread = _SyncThread(self._tick, fsync_interval_s)
        self.num_records = 0

    def __enter__(self) -> JobOutput:
        """Nobody else writes these files from now on, until the end of the block.

        Raises:
            ConfigError: a file cannot be written, or another job is writing it.
        """
        self._answers.claim()
        try:
            self._errors.claim()
        except BaseException:
            self._answers.close()
            self._answers.remove_empty()
            raise
        self._sync_thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        self._sync_thread.stop()
        try:
            self._close()
        except OutputError as e:
            if exc_type is None:
                raise
            logger.error("%s", e)
        if exc_type is not None and not self.num_records:
            self._answers.remove_empty()
            self._errors.remove_empty()

    def open(self, keep_answers: bytearray, keep_errors: bytearray) -> None:
        """Take out the lines without a flag and get ready to append.

        Raises:
            OutputError: the lines cannot be taken out.
        """
        self.num_records = keep_answers.count(1) + keep_errors.count(1)
        self._answers.open(keep_answers)
        self._errors.open(keep_errors)

    def write_answer(self, record: Record) -> None:
        """Append one record to the output.

        Raises:
            OutputError: it cannot be written any more.
        """
        self._write(self._answers, record)

    def count_answer(self) -> None:
        """One record is in the output that somebody else has written."""
        self._sync_thread.raise_failure()
        self.num_records += 1

    def write_error(self, record: Record) -> None:
        """Append one record to the error file.

        Raises:
            OutputError: it cannot be written any more.
        """
        self._write(self._errors, record)

    def sync(self) -> None:
        """Put both files on disk."""
        self._answers.sync()
        self._errors.sync()

    def check(self) -> None:
        """See that nobody else has written them.

        Raises:
            OutputError: another job has.
        """
        self._sync_thread.raise_failure()
        self._answers.check()
        self._errors.check()

    def _write(self, journal: Journal, record: Record) -> None:
        self._sync_thread.raise_failure()
        journal.append(record_line(record))
        self.num_records += 1

    def _tick(self) -> None:
        self._answers.tick()
        self._errors.tick()

    def _close(self) -> None:
        try:
            self._answers.close()
        finally:
            self._errors.close()


def record_line(record: Record) -> bytes:
    """JSON with its \\n."""
    return json_bytes(record) + b"\n"


class _SyncThread:
    """Calls `tick` every few seconds; its first failure is kept for the thread that writes."""

    def __init__(self, tick: Callable[[], None], interval_s: float) -> None:
        self._tick = tick
        self._interval_s = interval_s
        self._failure: OutputError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="result-files", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when no tick is under way any more; it may never have been started."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def raise_failure(self) -> None:
        """Raise what went wrong in the thread."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._tick()
            except OutputError as e:
                self._failure = e
                return
