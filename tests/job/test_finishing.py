"""The end of a job is as safe as its middle: "finished" is said of files that are there, of nothing else."""

import errno
import functools
import gzip
import http.server
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import orjson
import pytest
from pyarrow import parquet

from job.echo_engine import EchoEngine
from job.test_offline import batch_line, write_batch
from job.test_resume import never_started
from sglang_blend import launch_offline
from sglang_blend.config import JobConfig, resolve_files
from sglang_blend.errors import ConfigError, InputError, OutputError
from sglang_blend.job.offline import OfflineJob
from sglang_blend.job.result_file import ResultFile
from sglang_blend.location import Location, Url, location

IDS = [f"r{i}" for i in range(30)]
FORMS = {
    "Parquet": ("out.parquet", []),
    "sorted": ("out.jsonl", ["--sort-output"]),
    "gzip, sorted": ("out.jsonl.gz", ["--sort-output"]),
    "zstd, sorted": ("out.jsonl.zst", ["--sort-output"]),
    "remote": ("memory://bucket/out.jsonl", []),
    "remote Parquet": ("memory://bucket/out.parquet", []),
    "remote, sorted": ("memory://bucket/out.jsonl.gz", ["--sort-output"]),
}


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr("sglang_blend.location.PATIENCE_S", 1.0)
    storage = fsspec.filesystem("memory")
    storage.store.clear()
    yield storage
    storage.store.clear()


@pytest.fixture(params=FORMS)
def argv(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """A job of thirty lines whose results are made at its end."""
    write_batch(tmp_path / "b.jsonl", [batch_line(custom_id, f"word {custom_id}") for custom_id in IDS])
    name, flags = FORMS[request.param]
    output = name if "://" in name else str(tmp_path / name)
    where = ["--file", str(tmp_path / "b.jsonl"), "--output", output, "--work-dir", str(tmp_path)]
    return [*where, "--no-report", "--window", "4", *flags]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], int]:
    """The command, with an engine that echoes."""
    monkeypatch.setattr(launch_offline, "start_engine", lambda *args, **kwargs: EchoEngine())
    monkeypatch.setattr("sglang_blend.launch_offline.fork.require", lambda: None)
    return launch_offline.main


def places(argv: list[str]) -> tuple[Location, Location]:
    """The output, and the summary."""
    config = JobConfig(file=Path(argv[1]), output=location(argv[3]))
    return config.output or Path(), resolve_files(config).summary_file


def content(place: Location) -> bytes | None:
    if isinstance(place, Path):
        return place.read_bytes() if place.exists() else None
    storage, path = place.connect()
    return storage.cat_file(path) if storage.exists(path) else None


def summary_of(argv: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(content(places(argv)[1]) or b"{}")
    return found


def ids_of(argv: list[str], tmp_path: Path) -> list[str] | None:
    """custom_ids of a finished output; None where there is none."""
    place, _ = places(argv)
    raw = content(place)
    if raw is None:
        return None
    copy = tmp_path / "copy"
    copy.write_bytes(raw)
    if place.suffix == ".parquet":
        ids: list[str] = parquet.read_table(copy)["custom_id"].to_pylist()
        return ids
    if place.suffix == ".gz":
        raw = gzip.decompress(raw)
    elif place.suffix == ".zst":
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as reader:
            raw = reader.read()
    return [json.loads(line)["custom_id"] for line in raw.splitlines()]


def interfere(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """In the middle of making the output: after its first lines."""
    real = ResultFile.finish

    def finish(self: ResultFile, arrange: Any, *, anew: bool) -> None:
        def arranged(lines: Iterator[bytes]) -> Iterator[bytes]:
            for number, line in enumerate(arrange(lines)):
                if number == 3:
                    what()
                yield line

        real(self, arranged, anew=anew)

    monkeypatch.setattr(ResultFile, "finish", finish)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_finishing_ends_an_incomplete_job_and_the_same_command_finishes(
    argv: list[str],
    main: Callable[[list[str]], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signum: signal.Signals,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as interfering:
        interfere(interfering, lambda: os.kill(os.getpid(), signum))
        assert main(argv) == 128 + signum
    said = capfd.readouterr()
    assert "finished" not in said.out
    assert "30 answers in" in said.err
    assert "the same command goes on from there" in said.err
    assert (summary_of(argv)["complete"], summary_of(argv)["stopped_by"]) == (False, signum.name)
    assert main(argv) == 0
    assert sorted(ids_of(argv, tmp_path) or []) == sorted(IDS)
    assert summary_of(argv)["complete"]
    assert (summary_of(argv)["resumed_ok"], summary_of(argv)["run_tokens"]) == (30, 0)
    assert not list(tmp_path.glob(".*")), "nothing temporary stays"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (OSError(errno.EIO, "Input/output error"), 75),
        (PermissionError(errno.EACCES, "Permission denied"), 2),
    ],
)
def test_a_storage_that_refuses_while_finishing_ends_an_incomplete_job(
    argv: list[str],
    main: Callable[[list[str]], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    code: int,
) -> None:
    def refuse() -> None:
        raise error

    with monkeypatch.context() as interfering:
        interfere(interfering, refuse)
        assert main(argv) in (code, 2 if "://" in argv[3] else code)
    assert (summary_of(argv)["complete"], summary_of(argv)["ok"]) == (False, 30)
    assert main(argv) == 0
    assert sorted(ids_of(argv, tmp_path) or []) == sorted(IDS)
    assert not list(tmp_path.glob(".*"))


def test_a_table_is_on_the_disk_before_its_journal_is_deleted(
    tmp_path: Path, main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_batch(tmp_path / "b.jsonl", [batch_line("a", "word")])
    events: list[str] = []
    fsync, unlink = os.fsync, Path.unlink

    def seen_fsync(descriptor: int) -> None:
        events.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def seen_unlink(self: Path, missing_ok: bool = False) -> None:
        events.append(f"delete {self.name}")
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "unlink", seen_unlink)
    main(["--file", str(tmp_path / "b.jsonl"), "--output", str(tmp_path / "out.parquet"), "--no-report"])
    at_end = events[events.index("fsync .out.parquet.tmp") :]
    assert at_end[1] == f"fsync {tmp_path.name}", "the directory, with the new name in it"
    assert at_end.index("delete out.parquet.partial.jsonl") > at_end.index(f"fsync {tmp_path.name}")


def test_a_job_is_claimed_until_its_end_is_noted(
    tmp_path: Path, main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second command in the minutes that sorting a large file takes."""
    config = write_batch(tmp_path / "b.jsonl", [batch_line(i, "word") for i in IDS])
    told: list[str] = []

    def start_another() -> None:
        with pytest.raises(ConfigError, match="being written by another job") as caught:
            OfflineJob(replace(config, retry_errors=True)).run(never_started)
        told.append(str(caught.value.exit_code))

    interfere(monkeypatch, start_another)
    assert main(["--file", str(config.file), "--sort-output", "--no-report"]) == 0
    assert told == ["75"]


@pytest.mark.parametrize("form", ["out.jsonl", "out.parquet", "memory://bucket/out.jsonl"])
def test_what_is_not_what_was_counted_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Records vanish, double or change between their writing and the last look at them."""
    changes: list[Callable[[list[bytes]], list[bytes]]] = [
        lambda lines: lines[:-1],
        lambda lines: [*lines, lines[0]],
        lambda lines: [*lines[:-1], lines[0]],
        lambda lines: [lines[0].replace(b'"custom_id":"r', b'"custom_id":"other r'), *lines[1:]],
        lambda lines: [lines[0][:-9], *lines[1:]],
    ]
    write_batch(tmp_path / "b.jsonl", [batch_line(i, "word") for i in IDS])
    output = location(form if "://" in form else str(tmp_path / form))
    config = JobConfig(file=tmp_path / "b.jsonl", output=output, sort_output=True, work_dir=tmp_path)
    for change in changes:
        real = ResultFile.finish

        def finish(
            self: ResultFile,
            arrange: Any,
            *,
            anew: bool,
            change: Callable[[list[bytes]], list[bytes]] = change,
            real: Any = real,
        ) -> None:
            answers = self.place == output
            real(self, lambda lines: arrange(iter(change(list(lines)) if answers else lines)), anew=anew)

        with monkeypatch.context() as changing:
            changing.setattr(ResultFile, "finish", finish)
            with pytest.raises(OutputError, match="another job may write it too"):
                OfflineJob(config).run(EchoEngine)
        assert not orjson.loads(content(resolve_files(config).summary_file) or b"")["complete"]
    assert OfflineJob(config).run(never_started).resumed_ok == 30


class Threads:
    """Jobs at the same time, each in a thread."""

    def __init__(self) -> None:
        self.ended: dict[str, Any] = {}

    def run(self, name: str, config: JobConfig, engine: Callable[[], EchoEngine]) -> threading.Thread:
        def body() -> None:
            try:
                self.ended[name] = OfflineJob(config).run(engine)
            except (ConfigError, OutputError) as e:
                self.ended[name] = e

        thread = threading.Thread(target=body)
        thread.start()
        return thread


def test_of_two_drivers_on_a_storage_without_locks_the_second_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sglang_blend.job.lease.RENEW_S", 0.1)
    monkeypatch.setattr("sglang_blend.job.lease._LOOK_S", 0.05)
    write_batch(tmp_path / "b.jsonl", [batch_line(i, "word") for i in IDS])
    config = JobConfig(
        file=tmp_path / "b.jsonl",
        output=Url("memory://bucket/out.jsonl"),
        work_dir=tmp_path,
        fsync_interval=0.05,
        window=1,
    )
    jobs = Threads()
    second: list[threading.Thread] = []

    class Slow(EchoEngine):
        async def answer(self, *args: Any) -> Any:
            if len(self.asked) == 5:
                second.append(jobs.run("second", config, EchoEngine))
                second[0].join()
            return await super().answer(*args)

    jobs.run("first", config, Slow).join()
    assert "is being written by another job" in str(jobs.ended["second"])
    assert jobs.ended["second"].exit_code == 75
    assert jobs.ended["first"].complete
    lines = (content(Url("memory://bucket/out.jsonl")) or b"").splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in lines) == sorted(IDS)


def test_a_driver_that_was_cut_off_and_comes_back_stops_and_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: Any
) -> None:
    """The first is frozen until the second has taken over and finished; then it wakes up with its answers."""
    monkeypatch.setattr("sglang_blend.job.lease.FREE_AFTER_S", 0.2)
    monkeypatch.setattr("sglang_blend.job.lease._LOOK_S", 0.05)
    write_batch(tmp_path / "b.jsonl", [batch_line(i, "word") for i in IDS])
    config = JobConfig(
        file=tmp_path / "b.jsonl", output=Url("memory://bucket/out.jsonl"), work_dir=tmp_path, window=1
    )
    jobs = Threads()

    class Frozen(EchoEngine):
        async def answer(self, *args: Any) -> Any:
            if len(self.asked) == 20:
                jobs.run("second", config, EchoEngine).join()
            return await super().answer(*args)

    jobs.run("first", config, Frozen).join()
    assert jobs.ended["second"].complete
    assert isinstance(jobs.ended["first"], OutputError)
    lines = (content(Url("memory://bucket/out.jsonl")) or b"").splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in lines) == sorted(IDS)
    assert OfflineJob(config).run(never_started).ok == 30


def test_where_locks_are_refused_a_lease_tells_two_jobs_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on NFS without locks, some FUSE, some Lustre."""

    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr("sglang_blend.job.lease.RENEW_S", 0.1)
    monkeypatch.setattr("sglang_blend.job.lease._LOOK_S", 0.05)
    config = replace(write_batch(tmp_path / "b.jsonl", [batch_line(i, "word") for i in IDS]), window=1)
    config = replace(config, fsync_interval=0.05)
    jobs = Threads()

    class Slow(EchoEngine):
        async def answer(self, *args: Any) -> Any:
            if len(self.asked) == 5:
                jobs.run("second", config, EchoEngine).join()
            return await super().answer(*args)

    jobs.run("first", config, Slow).join()
    assert "being written by another job" in str(jobs.ended["second"])
    assert jobs.ended["first"].complete
    assert "has no locks" in caplog.text
    lines = (tmp_path / "b.output.jsonl").read_bytes().splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in lines) == sorted(IDS)
    assert not list(tmp_path.glob(".*"))


def test_a_writer_that_knows_nothing_of_locks_is_noticed(tmp_path: Path) -> None:
    config = replace(
        write_batch(tmp_path / "b.jsonl", [batch_line(i, "word") for i in IDS]), window=1, fsync_interval=0.01
    )
    output = tmp_path / "b.output.jsonl"

    class Meddled(EchoEngine):
        async def answer(self, *args: Any) -> Any:
            if len(self.asked) == 10:
                os.truncate(output, output.stat().st_size // 2)
            return await super().answer(*args)

    with pytest.raises(OutputError, match="another job writes it too"):
        OfflineJob(config).run(Meddled)
    assert OfflineJob(config).run(EchoEngine).ok == 30
    ids = [json.loads(line)["custom_id"] for line in output.read_bytes().splitlines()]
    assert sorted(ids) == sorted(IDS)


def test_an_input_that_is_written_over_in_place_is_noticed_and_nothing_gets_a_wrong_name(
    tmp_path: Path,
) -> None:
    """`cp new.jsonl batch.jsonl`: lines of the same length, under the job's feet."""
    config = replace(
        write_batch(tmp_path / "b.jsonl", [batch_line(f"old-{i:02}", f"old {i:02}") for i in range(40)]),
        window=4,
    )
    path = tmp_path / "b.jsonl"
    old = path.read_bytes()

    class WrittenOver(EchoEngine):
        async def answer(self, *args: Any) -> Any:
            if len(self.asked) == 10:
                with path.open("r+b") as file:
                    file.write(old.replace(b"old", b"new"))
            return await super().answer(*args)

    with pytest.raises(InputError, match="changed while the job was reading it"):
        OfflineJob(config).run(WrittenOver)
    ids = [json.loads(line)["custom_id"] for line in (tmp_path / "b.output.jsonl").read_bytes().splitlines()]
    assert ids
    assert all(custom_id.startswith("old") for custom_id in ids)
    path.write_bytes(old)
    assert OfflineJob(config).run(EchoEngine).ok == 40


def test_an_input_that_was_touched_is_the_same_input(tmp_path: Path) -> None:
    config = write_batch(tmp_path / "b.jsonl", [batch_line(i, "word") for i in IDS])

    class Touched(EchoEngine):
        async def answer(self, *args: Any) -> Any:
            os.utime(tmp_path / "b.jsonl")
            return await super().answer(*args)

    assert OfflineJob(config).run(Touched).ok == 30


def test_an_input_that_was_replaced_meanwhile_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By rename: the job goes on with what it has open."""
    config = write_batch(tmp_path / "b.jsonl", [batch_line(i, "word") for i in IDS])

    class Replaced(EchoEngine):
        async def answer(self, *args: Any) -> Any:
            if len(self.asked) == 10:
                (tmp_path / "new").write_bytes(b"{}\n")
                (tmp_path / "new").rename(tmp_path / "b.jsonl")
            return await super().answer(*args)

    assert OfflineJob(config).run(Replaced).ok == 30
    assert "is not what it was when this job began" in caplog.text


def test_a_path_that_is_not_utf8_runs_to_its_end(tmp_path: Path, main: Callable[[list[str]], int]) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    write_batch(folder / "b.jsonl", [batch_line("a", "word")])
    assert main(["--file", str(folder / "b.jsonl"), "--no-report"]) == 0
    assert main(["--file", str(folder / "b.jsonl"), "--no-report"]) == 0


@pytest.mark.parametrize("usage", ["[]", '"x"', '{"prompt_tokens":"9"}', '{"prompt_tokens_details":3}'])
def test_an_answer_that_somebody_edited_runs_again(tmp_path: Path, usage: str) -> None:
    config = write_batch(tmp_path / "b.jsonl", [batch_line("a", "one"), batch_line("b", "two")])
    OfflineJob(config).run(EchoEngine)
    output = tmp_path / "b.output.jsonl"
    output.write_text(output.read_text().replace('{"echo":"two"}', f'{{"usage":{usage}}}'))
    assert '"usage"' in output.read_text()
    engine = EchoEngine()
    assert OfflineJob(config).run(lambda: engine).ok == 2
    assert engine.asked == ["b"]


@pytest.mark.parametrize("field", ["flags", "reading", "refusals", "finished", "input_sha256"])
def test_a_job_file_of_another_version_is_no_job_file(tmp_path: Path, field: str) -> None:
    config = write_batch(tmp_path / "b.jsonl", [batch_line("a", "one")])
    OfflineJob(config).run(EchoEngine)
    path = tmp_path / "b.job.json"
    content = json.loads(path.read_text())
    for changed in ({**content, field: 7}, {k: v for k, v in content.items() if k != field}):
        path.write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match=r"no .*says that it is this job's"):
            OfflineJob(config).run(never_started)
    del content["finished"]["summary"]["order"]
    path.write_text(json.dumps(content))
    assert OfflineJob(config).run(never_started).ok == 1


def test_a_signed_address_names_no_file_and_stands_in_no_record(
    tmp_path: Path, main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual way to hand over one file; the next signature is the same job."""
    served = tmp_path / "served"
    served.mkdir()
    write_batch(served / "b.jsonl", [batch_line("a", "word")])
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://user:hunter2@127.0.0.1:{server.server_port}/b.jsonl?X-Amz-Signature=hush"
        assert main(["--file", f"{address}1", "--no-report"]) == 0
        assert main(["--file", f"{address}2", "--no-report"]) == 0
        assert main(["--file", address.replace("b.jsonl", "none.jsonl"), "--no-report"]) == 2
        server.shutdown()
    assert {path.name for path in here.iterdir()} >= {"b.output.jsonl", "b.job.json"}
    for path in here.iterdir():
        assert b"hush" not in path.read_bytes()
        assert b"hunter2" not in path.read_bytes()
        assert "hush" not in path.name
