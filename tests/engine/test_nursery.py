"""The process that imports SGLang once and forks the others; no model is needed."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sglang_blend.demo_model import demo_model_path
from sglang_blend.engine import nursery as nursery_module
from sglang_blend.engine.local import LocalEngine
from sglang_blend.engine.messages import Accepted, StartWorker, receive
from sglang_blend.engine.nursery import Child, Nursery
from sglang_blend.engine.prepare_pool import PreparePool
from sglang_blend.errors import ConfigError, EngineError
from sglang_blend.request import BatchLine, Prepared

engine = pytest.mark.engine


def is_running(pid: int) -> bool:
    """Alive, and not only waiting to be waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def gone_within(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("nursery") / "engine.log") as nursery:
        yield nursery


def start_worker(nursery: Nursery) -> Child:
    child = nursery.start(StartWorker(["--model-path", str(demo_model_path())]))
    assert receive(child.sock) == Accepted()
    return child


@engine
def test_importing_sglang_leaves_nothing_that_a_fork_would_break(nursery: Nursery) -> None:
    nursery.end(start_worker(nursery))
    assert nursery.forks is True


@engine
def test_a_second_worker_costs_no_import(nursery: Nursery) -> None:
    """Flags and tokenizer only; an import of SGLang takes three times as much of a processor."""
    nursery.end(start_worker(nursery))
    child = start_worker(nursery)
    used = psutil.Process(child.pid).cpu_times()
    assert used.user + used.system < 5
    nursery.end(child)


@engine
def test_the_end_of_a_child_is_told(nursery: Nursery) -> None:
    child = start_worker(nursery)
    os.kill(child.pid, signal.SIGTERM)
    assert receive(child.sock) is None
    assert child.is_gone()
    assert nursery.end(child) == "killed by SIGTERM"


@engine
def test_a_child_dies_with_its_parents_end_of_the_socket(nursery: Nursery) -> None:
    child = start_worker(nursery)
    other = child.sock.dup()
    child.sock.close()
    assert is_running(child.pid), "the socket has another holder"
    other.close()
    assert gone_within([child.pid], 5)
    del nursery._children[child.pid]


@engine
def test_a_nursery_that_was_killed_is_started_again(nursery: Nursery) -> None:
    child = start_worker(nursery)
    os.kill(nursery._process.pid, signal.SIGKILL)
    nursery._process.wait()
    with pytest.raises(EngineError, match="killed by SIGKILL"):
        nursery.start(StartWorker([]))
    nursery.revive()
    assert gone_within([child.pid], 5)
    nursery.end(start_worker(nursery))


@engine
def test_children_are_started_afresh_where_forking_is_not_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an import that leaves threads behind."""
    monkeypatch.setattr(nursery_module, "_MODULE", "engine.unforkable_nursery")
    tests = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))
    with Nursery(tmp_path / "engine.log") as nursery:
        pool = PreparePool(nursery, ["--model-path", str(demo_model_path())], num_workers=1)
        assert nursery.forks is False
        line = BatchLine(1, 0, "a", "/v1/completions", {"prompt": "one two three"})
        ((_, prepared),) = pool.prepare([line])
        assert isinstance(prepared, Prepared)
        pids = [*pool.pids, nursery._process.pid]
    assert len(prepared.token_ids) == 3
    assert gone_within(pids, 5)


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"engine\.log.*cannot be written"):
        Nursery(tmp_path / "no such folder" / "engine.log")


@engine
def test_a_log_keeps_what_earlier_runs_said(tmp_path: Path) -> None:
    """Behind a line that says when another one began; a start that was refused leaves no trace."""
    log = tmp_path / "engine.log"
    log.write_text("RuntimeError: of last night\n")
    flags = ["--model-path", str(demo_model_path()), "--max-total-tokens", "x"]
    with pytest.raises(ConfigError, match="max-total-tokens"):
        LocalEngine(flags, log=log, num_prepare_workers=1)
    assert log.read_text() == "RuntimeError: of last night\n"
    with Nursery(log) as nursery:
        nursery._process.kill()
        with pytest.raises(EngineError, match="killed by SIGKILL") as death:
            nursery.start(StartWorker([]))
    assert "last night" not in str(death.value)
    assert log.read_text().startswith("RuntimeError: of last night\n---- started again at ")
    new = tmp_path / "new.log"
    with pytest.raises(ConfigError):
        LocalEngine(flags, log=new, num_prepare_workers=1)
    assert not new.exists()
