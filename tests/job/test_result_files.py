"""Results on every kind of local file: packed, Parquet, sorted; what a full or lost disk leaves."""

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from job.echo_engine import EchoEngine
from job.local_files import local_files
from job.test_offline import batch_line, read, write_batch
from job.test_resume import check_one_record_a_line, mixed_lines, never_started, write_lines
from sglang_blend.config import JobConfig
from sglang_blend.errors import ConfigError, EngineError, OutputError
from sglang_blend.job import journal, sorting
from sglang_blend.job.offline import OfflineJob
from sglang_blend.job.packing import packing_of_name, unpack
from sglang_blend.job.result_file import ResultFile
from sglang_blend.job.sorting import in_input_order


def unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(content)
    if path.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True) as reader:
            return reader.read()
    return content


def ids_in(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in unpacked(path).splitlines()]


@pytest.fixture
def job(tmp_path: Path) -> JobConfig:
    """Thirty good lines."""
    return write_batch(tmp_path / "b.jsonl", [batch_line(f"r{i}", f"word {i}") for i in range(30)])


def stop_after(config: JobConfig, num_answers: int) -> None:
    with pytest.raises(EngineError):
        OfflineJob(replace(config, window=1)).run(lambda: EchoEngine(dies_after=num_answers))


@pytest.mark.parametrize("name", ["out.jsonl.gz", "out.jsonl.zst"])
def test_packed_results_grow_and_are_resumed(job: JobConfig, tmp_path: Path, name: str) -> None:
    config = replace(job, output=tmp_path / name)
    stop_after(config, 11)
    assert len(ids_in(tmp_path / name)) == 11
    engine = EchoEngine()
    OfflineJob(config).run(lambda: engine)
    assert len(engine.asked) == 19
    assert sorted(ids_in(tmp_path / name)) == sorted(f"r{i}" for i in range(30))
    assert OfflineJob(config).run(never_started).ok == 30


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from([".gz", ".zst"]))
def test_packed_results_cut_at_any_byte_leave_one_record_a_line(
    tmp_path: Path, data: st.DataObject, suffix: str
) -> None:
    """Blocks of a few lines, so that a cut meets the beginning, the middle and the end of one."""
    lines = mixed_lines(40)
    config = replace(
        write_lines(tmp_path / "b.jsonl", lines),
        output=tmp_path / f"out.jsonl{suffix}",
        error_file=tmp_path / f"errors.jsonl{suffix}",
        overwrite=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "MAX_BLOCK_BYTES", 1500)
        with contextlib.suppress(EngineError):
            OfflineJob(config).run(lambda: EchoEngine(dies_after=data.draw(st.integers(0, 40))))
        for path in (tmp_path / f"out.jsonl{suffix}", tmp_path / f"errors.jsonl{suffix}"):
            if path.exists():
                content = path.read_bytes()
                path.write_bytes(content[: int(data.draw(st.floats(0, 1)) * len(content))])
        OfflineJob(replace(config, overwrite=False)).run(EchoEngine)
    for packed in (tmp_path / f"out.jsonl{suffix}", tmp_path / f"errors.jsonl{suffix}"):
        packed.with_suffix("").write_bytes(unpacked(packed))
    plain = replace(config, output=tmp_path / "out.jsonl", error_file=tmp_path / "errors.jsonl")
    check_one_record_a_line(plain, lines)


def test_answers_as_parquet_hold_the_texts_and_all_of_the_record(tmp_path: Path) -> None:
    config = write_batch(tmp_path / "b.jsonl", [batch_line("a", "one two"), batch_line("b", "refuse")])
    OfflineJob(replace(config, output=tmp_path / "out.parquet")).run(EchoEngine)
    (row,) = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert (row["custom_id"], row["status_code"], json.loads(row["body"])) == ("a", 200, {"echo": "two"})
    assert not (tmp_path / "out.parquet.partial.jsonl").exists()
    assert [r["custom_id"] for r in read(tmp_path / "out.errors.jsonl")] == ["b"]


def test_a_parquet_job_goes_on_from_its_journal_and_from_the_finished_table(tmp_path: Path) -> None:
    lines = [batch_line(f"r{i}", "refuse me" if i == 3 else f"word {i}") for i in range(30)]
    config = replace(write_batch(tmp_path / "b.jsonl", lines), output_format="parquet")
    stop_after(config, 11)
    assert not (tmp_path / "b.output.parquet").exists()
    OfflineJob(config).run(EchoEngine)
    before = parquet.read_table(tmp_path / "b.output.parquet").sort_by("custom_id")
    assert before.num_rows == 29
    engine = EchoEngine()
    OfflineJob(replace(config, retry_errors=True)).run(lambda: engine)
    assert engine.asked == ["r3"]
    assert parquet.read_table(tmp_path / "b.output.parquet").sort_by("custom_id") == before


def test_a_finished_file_is_not_converted_to_another_format(tmp_path: Path) -> None:
    config = replace(write_batch(tmp_path / "b.jsonl", [batch_line("a", "one")]), output=tmp_path / "o.jsonl")
    OfflineJob(config).run(EchoEngine)
    as_parquet = replace(config, output_format="parquet")
    with pytest.raises(ConfigError, match=r"as JSON Lines .* another --output, or pass --overwrite"):
        OfflineJob(as_parquet).run(EchoEngine)
    assert OfflineJob(replace(as_parquet, overwrite=True)).run(EchoEngine).ok == 1
    assert parquet.read_table(tmp_path / "o.jsonl").num_rows == 1
    with pytest.raises(ConfigError, match="as Parquet"):
        OfflineJob(config).run(EchoEngine)


def test_sorted_results_are_in_input_order_and_resumable(tmp_path: Path) -> None:
    lines = mixed_lines(60)
    config = replace(write_lines(tmp_path / "b.jsonl", lines), sort_output=True)
    OfflineJob(config).run(EchoEngine)
    check_one_record_a_line(config, lines)
    answers = [int(c[1:]) for c in ids_in(tmp_path / "b.output.jsonl")]
    errors = [r["response"]["body"]["error"]["line"] for r in read(tmp_path / "b.errors.jsonl")]
    assert answers == sorted(answers)
    assert errors == sorted(errors)
    assert OfflineJob(config).run(never_started).complete


def test_sorting_can_be_asked_for_later_and_runs_nothing(job: JobConfig, tmp_path: Path) -> None:
    OfflineJob(replace(job, order="random")).run(EchoEngine)
    assert ids_in(tmp_path / "b.output.jsonl") != [f"r{i}" for i in range(30)]
    OfflineJob(replace(job, order="random", sort_output=True)).run(never_started)
    assert ids_in(tmp_path / "b.output.jsonl") == [f"r{i}" for i in range(30)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 50)), st.integers(1, 200))
def test_sorting_on_disk_equals_sorting_in_memory(numbers: list[int], run_bytes: int) -> None:
    lines = [b"%d %d\n" % (number, i) for i, number in enumerate(numbers)]
    numbers_of = lambda some: [int(line.split()[0]) for line in some]  # noqa: E731
    found = list(in_input_order(iter(lines), numbers_of, Path(tempfile.gettempdir()), run_bytes=run_bytes))
    assert found == sorted(lines, key=lambda line: int(line.split()[0]))
    assert sorting.RUN_BYTES > 1 << 20


class Breaking(EchoEngine):
    """Does something to the disk in the middle of the job."""

    def __init__(self, at: int, what: Any) -> None:
        super().__init__()
        self._at, self._what = at, what

    async def answer(self, *args: Any) -> Any:
        if len(self.asked) == self._at:
            self._what()
        return await super().answer(*args)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 KiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no tmpfs here: {made.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_stops_the_job_with_a_sentence_and_it_goes_on_later(
    tmp_path: Path, small_disk: Path
) -> None:
    lines = [batch_line(f"r{i}", f"{i} " + "long" * 100) for i in range(300)]
    config = write_batch(tmp_path / "b.jsonl", lines)
    config = replace(config, output=small_disk / "out.jsonl", work_dir=tmp_path, window=4)
    with pytest.raises(OutputError, match=r"No space left on device.*same command again"):
        OfflineJob(config).run(EchoEngine)
    content = (small_disk / "out.jsonl").read_bytes()
    assert content.endswith(b"\n")
    num_kept = content.count(b"\n")
    assert 10 < num_kept < 300
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    engine = EchoEngine()
    assert OfflineJob(config).run(lambda: engine).ok == 300
    assert len(engine.asked) == 300 - num_kept


@pytest.mark.parametrize("packed", [True, False])
def test_a_full_work_directory_is_told_in_a_sentence(tmp_path: Path, small_disk: Path, packed: bool) -> None:
    """The unpacked input does not fit, or the token ids do not."""
    lines = [batch_line(f"r{i}", "w " * 300) for i in range(300)]
    config = write_batch(tmp_path / "b.jsonl", lines)
    if packed:
        config = JobConfig(file=tmp_path / "b.jsonl.gz")
        (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "b.jsonl").read_bytes()))
    with pytest.raises(OutputError, match=r"temporary files \(No space left.*--work-dir"):
        OfflineJob(replace(config, work_dir=small_disk)).run(EchoEngine)
    assert OfflineJob(config).run(EchoEngine).ok == 300


def test_a_directory_that_vanishes_stops_the_job_with_a_sentence(job: JobConfig, tmp_path: Path) -> None:
    target = tmp_path / "results"
    config = replace(job, output=target / "out.jsonl", window=1, fsync_interval=0.01, work_dir=tmp_path)
    with pytest.raises(OutputError, match="moved or deleted"):
        OfflineJob(config).run(lambda: Breaking(5, lambda: shutil.rmtree(target)))
    assert OfflineJob(config).run(EchoEngine).ok == 30


def test_a_directory_that_was_moved_can_be_put_back(job: JobConfig, tmp_path: Path) -> None:
    target, away = tmp_path / "results", tmp_path / "away"
    config = replace(job, output=target / "out.jsonl", window=1, fsync_interval=0.01, work_dir=tmp_path)
    with pytest.raises(OutputError, match="put it back"):
        OfflineJob(config).run(lambda: Breaking(5, lambda: target.rename(away)))
    away.rename(target)
    assert OfflineJob(config).run(EchoEngine).resumed_ok >= 5


@pytest.mark.parametrize("what", ["output", "error_file"])
def test_a_target_that_cannot_be_written_stops_the_job_before_it_begins(
    job: JobConfig, tmp_path: Path, what: str
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    changed: dict[str, Any] = {what: blocked / "deeper.jsonl"}
    config = replace(job, work_dir=tmp_path, **changed)
    with pytest.raises(ConfigError, match=r"deeper\.jsonl cannot be written \(.*another file"):
        OfflineJob(config).run(never_started)
    assert not (tmp_path / "b.output.jsonl").exists()


@pytest.mark.parametrize("what", ["output", "error_file", "summary_file"])
def test_a_result_that_is_no_file_is_refused(job: JobConfig, tmp_path: Path, what: str) -> None:
    """A pipe, a device (which would be replaced by a file, or have others put beside it), standard output."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = sorted(tmp_path.iterdir())
    for place in (pipe, Path("/dev/null"), Path("/dev/stdout"), Path("-")):
        changed: dict[str, Any] = {what: place}
        with pytest.raises(ConfigError, match=f"--{what.replace('_', '-')} {place} is no file on a disk"):
            OfflineJob(replace(job, work_dir=tmp_path, **changed)).run(never_started)
    assert sorted(tmp_path.iterdir()) == before


def test_a_read_only_disk_is_told_in_a_sentence(job: JobConfig, small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    config = replace(job, output=small_disk / "out.jsonl", work_dir=tmp_path)
    with pytest.raises(ConfigError, match="Read-only file system"):
        OfflineJob(config).run(never_started)


def test_a_summary_that_cannot_be_saved_does_not_fail_the_job(job: JobConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    summary = OfflineJob(replace(job, summary_file=tmp_path / "file" / "s.json")).run(EchoEngine)
    assert summary.complete
    assert len(read(local_files(job).output)) == 30


def test_a_done_file_beside_its_journal_is_the_truth(tmp_path: Path) -> None:
    """Killed between the two: the table was complete, the journal was not yet deleted."""
    file = ResultFile(tmp_path / "o.parquet", tmp_path, as_parquet=True)
    line = (
        b'{"id":"x","custom_id":"a","response":{"status_code":200,"request_id":"y","body":{}},"error":null}\n'
    )
    file.claim()
    file.open(bytearray())
    file.append(line)
    file.sync()
    file.finish(lambda lines: lines, anew=False)
    file.close()
    (tmp_path / "o.parquet.partial.jsonl").write_bytes(line + line[:-30])
    again = ResultFile(tmp_path / "o.parquet", tmp_path, as_parquet=True)
    assert list(again.read()) == [line]
    again.claim()
    again.open(bytearray([1]))
    again.close()
    assert (tmp_path / "o.parquet.partial.jsonl").read_bytes() == line


def test_a_link_stays_a_link_and_its_file_keeps_its_mode(job: JobConfig, tmp_path: Path) -> None:
    """Sorting and taking lines out write the file anew; what the output's name stands for does not change."""
    real = tmp_path / "elsewhere" / "real.jsonl"
    real.parent.mkdir()
    real.touch()
    real.chmod(0o600)
    (tmp_path / "link.jsonl").symlink_to(real)
    config = replace(job, output=tmp_path / "link.jsonl", order="random", work_dir=tmp_path)
    stop_after(config, 11)
    lines = real.read_bytes().splitlines(keepends=True)
    real.write_bytes(b"".join([lines[0], b"not a record\n", *lines[1:]]))
    OfflineJob(replace(config, sort_output=True)).run(EchoEngine)
    assert (tmp_path / "link.jsonl").is_symlink()
    assert ids_in(real) == [f"r{i}" for i in range(30)]
    assert real.stat().st_mode & 0o777 == 0o600


def test_what_a_killed_sort_left_is_used_up(job: JobConfig, tmp_path: Path) -> None:
    OfflineJob(job).run(EchoEngine)
    left = tmp_path / ".b.output.jsonl.tmp"
    left.write_bytes(b"half of it")
    OfflineJob(replace(job, sort_output=True)).run(never_started)
    assert not left.exists()
    assert ids_in(tmp_path / "b.output.jsonl") == [f"r{i}" for i in range(30)]


def test_an_output_that_is_the_input_by_another_link_is_refused(job: JobConfig, tmp_path: Path) -> None:
    assert isinstance(job.file, Path)
    before = job.file.read_bytes()
    os.link(job.file, tmp_path / "other.jsonl")
    with pytest.raises(ConfigError, match="is the batch file"):
        OfflineJob(replace(job, output=tmp_path / "other.jsonl", overwrite=True)).run(never_started)
    assert job.file.read_bytes() == before


def test_a_full_work_directory_while_sorting_is_told_as_that(job: JobConfig, small_disk: Path) -> None:
    OfflineJob(job).run(EchoEngine)
    (small_disk / "ballast").write_bytes(bytes(60_000))
    with pytest.raises(OutputError, match=r"temporary files \(No space left.*--work-dir"):
        OfflineJob(replace(job, sort_output=True, work_dir=small_disk)).run(never_started)
    assert OfflineJob(replace(job, sort_output=True)).run(never_started).complete


def test_names_that_are_too_long_for_the_disk_are_told_at_once(job: JobConfig, tmp_path: Path) -> None:
    for options in ({}, {"sort_output": True}, {"output_format": "parquet"}):
        config = replace(job, output=tmp_path / f"{'x' * 240}.jsonl", **options)
        with pytest.raises(ConfigError, match="is too long a name"):
            OfflineJob(config).run(never_started)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_small_file_that_unpacks_to_much_is_unpacked_in_small_pieces(tmp_path: Path, suffix: str) -> None:
    """96 KB of zstd came as one piece of 3 GB."""
    packing = packing_of_name(suffix)
    assert packing is not None
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(packing.compress(bytes(300 << 20)))
    with path.open("rb") as file:
        sizes = [len(piece) for piece in unpack(file, packing)]
    assert sum(sizes) == 300 << 20
    assert max(sizes) <= 96 << 20
