"""Input and results on a real S3-compatible server (moto), and input over http."""

import errno
import functools
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import s3fs
from pyarrow import parquet

from job.echo_engine import EchoEngine
from job.s3_server import OF_LIBRARIES, Storage
from job.test_offline import batch_line
from job.test_result_files import Breaking
from job.test_resume import never_started
from sglang_blend.config import JobConfig, resolve_files
from sglang_blend.errors import ConfigError, EngineError, InputError, OutputError
from sglang_blend.job import parts
from sglang_blend.job.offline import OfflineJob
from sglang_blend.location import Url, location

pytestmark = OF_LIBRARIES


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setattr("sglang_blend.location.PATIENCE_S", 2.0)
    made = Storage(monkeypatch)
    yield made
    made.stop()


@pytest.fixture
def job(storage: Storage, tmp_path: Path) -> JobConfig:
    """Thirty good lines in the bucket, results beside them."""
    lines = [batch_line(f"r{i}", f"word {i}") for i in range(30)]
    storage.files.pipe("bucket/b.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return JobConfig(
        file=location("s3://bucket/b.jsonl"), output=location("s3://bucket/out.jsonl"), work_dir=tmp_path
    )


def test_a_job_from_bucket_to_bucket(job: JobConfig, storage: Storage) -> None:
    summary = OfflineJob(job).run(EchoEngine)
    assert summary.ok == 30
    assert sorted(storage.ids("out.jsonl")) == sorted(f"r{i}" for i in range(30))
    assert storage.names() == [
        "b.jsonl",
        "out.errors.jsonl",
        "out.job.json",
        "out.jsonl",
        "out.summary.json",
    ]
    assert OfflineJob(job).run(never_started).resumed_ok == 30


@pytest.mark.slow
def test_a_stopped_job_goes_on_from_its_parts(
    job: JobConfig, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_INTERVAL_S", 0.0)
    slow = replace(job, window=1, fsync_interval=0.001)
    with pytest.raises(EngineError):
        OfflineJob(slow).run(lambda: EchoEngine(dies_after=11))
    assert "out.jsonl" not in storage.names()
    engine = EchoEngine()
    OfflineJob(job).run(lambda: engine)
    assert len(engine.asked) == 19
    assert sorted(storage.ids("out.jsonl")) == sorted(f"r{i}" for i in range(30))
    assert not any(".parts/" in name for name in storage.names())


@pytest.mark.slow
def test_failed_lines_of_a_finished_job_are_tried_again(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps(batch_line(f"r{i}", "refuse" if i == 3 else "word")) + "\n" for i in range(5))
    )
    config = JobConfig(
        file=tmp_path / "b.jsonl", output=location("s3://bucket/out.jsonl.gz"), work_dir=tmp_path
    )
    OfflineJob(config).run(EchoEngine)
    engine = EchoEngine()
    OfflineJob(replace(config, retry_errors=True)).run(lambda: engine)
    assert engine.asked == ["r3"]
    assert storage.ids("out.errors.jsonl") == ["r3"]
    with storage.files.open("bucket/out.jsonl.gz", "rb", compression="gzip") as file:
        assert len(file.read().splitlines()) == 4


@pytest.mark.slow
def test_parquet_in_a_bucket(job: JobConfig, storage: Storage) -> None:
    OfflineJob(replace(job, output=location("s3://bucket/out.parquet"), sort_output=True)).run(EchoEngine)
    with storage.files.open("bucket/out.parquet", "rb") as file:
        assert parquet.read_table(file)["custom_id"].to_pylist() == [f"r{i}" for i in range(30)]


@pytest.mark.slow
def test_a_storage_that_fails_midway_stops_the_job_and_it_goes_on_later(
    job: JobConfig, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three parts are written, then the storage refuses everything, then it is well again."""
    monkeypatch.setattr(parts, "MAX_BLOCK_BYTES", 150)
    put, tried = s3fs.S3FileSystem._pipe_file, []

    async def failing(self: Any, path: str, data: bytes, **kwargs: Any) -> Any:
        if ".parts/0" in path:
            tried.append(path)
            if len(tried) > 3:
                raise OSError("Connection reset by peer")
        return await put(self, path, data, **kwargs)

    with monkeypatch.context() as broken:
        broken.setattr(s3fs.S3FileSystem, "_pipe_file", failing)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(OutputError, match=r"out\.jsonl\.parts cannot be written any more.*same command"):
            OfflineJob(job).run(EchoEngine)
    s3fs.S3FileSystem.clear_instance_cache()
    kept = len([name for name in storage.names() if "out.jsonl.parts/" in name])
    assert kept == 3
    engine = EchoEngine()
    summary = OfflineJob(job).run(lambda: engine)
    assert (summary.ok, len(engine.asked)) == (30, 30 - summary.resumed_ok)
    assert summary.resumed_ok > 0
    assert sorted(storage.ids("out.jsonl")) == sorted(f"r{i}" for i in range(30))


@pytest.mark.parametrize("what", ["_pipe_file", "_put_file", "_cat_file", "_rm_file", "_info"])
def test_a_storage_that_refuses_for_a_moment_is_asked_again(
    job: JobConfig, storage: Storage, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """One request of each kind is told to slow down: a job of hours does not end for it."""
    real = getattr(s3fs.S3FileSystem, what)
    refused: list[Any] = []

    async def busy(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not refused and "b.jsonl" not in str(args[0]):
            refused.append(args)
            raise OSError(errno.EBUSY, "Please reduce your request rate.")
        return await real(self, *args, **kwargs)

    with monkeypatch.context() as broken:
        broken.setattr(s3fs.S3FileSystem, what, busy)
        s3fs.S3FileSystem.clear_instance_cache()
        assert OfflineJob(job).run(EchoEngine).complete
    s3fs.S3FileSystem.clear_instance_cache()
    assert refused
    assert sorted(storage.ids("out.jsonl")) == sorted(f"r{i}" for i in range(30))


def test_a_server_that_goes_away_is_told_in_a_sentence(
    job: JobConfig, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MAX_BLOCK_BYTES", 150)
    with pytest.raises(OutputError, match="cannot be written any more") as caught:
        OfflineJob(job).run(lambda: Breaking(5, storage.stop))
    assert caught.value.exit_code == 75, "whoever started it may try again"


def test_a_bucket_that_is_not_there_is_told_before_anything_runs(job: JobConfig) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        OfflineJob(replace(job, output=location("s3://nowhere/out.jsonl"))).run(never_started)
    with pytest.raises(InputError, match="does not exist"):
        OfflineJob(replace(job, file=location("s3://bucket/none.jsonl"))).run(never_started)


def test_a_scheme_nobody_serves_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        OfflineJob(JobConfig(file=Url("nosuch://x/b.jsonl"), work_dir=tmp_path)).run(never_started)


@pytest.mark.slow
def test_input_without_credentials_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    config = JobConfig(file=location("s3://bucket/b.jsonl"), output=tmp_path / "out.jsonl")
    with pytest.raises(InputError, match=r"cannot be fetched .*credentials"):
        OfflineJob(config).run(never_started)


def test_input_over_http_gives_results_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, here = tmp_path / "served", tmp_path / "here"
    served.mkdir()
    here.mkdir()
    (served / "b.jsonl").write_text(json.dumps(batch_line("a", "word")) + "\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(here)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = JobConfig(file=location(f"http://127.0.0.1:{server.server_port}/b.jsonl"))
        assert OfflineJob(config).run(EchoEngine).ok == 1
        assert OfflineJob(config).run(never_started).ok == 1
        server.shutdown()
    assert resolve_files(config).output == Path("b.output.jsonl")
    assert (here / "b.output.jsonl").exists()
