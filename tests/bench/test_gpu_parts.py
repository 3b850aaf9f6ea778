"""The made jobs of scripts/bench_gpu.py are those that docs/performance.md describes."""

import argparse
import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sglang_blend.core import build_prefix_tree
from sglang_blend.core.request import RequestTable


@pytest.fixture(scope="module")
def bench_gpu() -> ModuleType:
    """The script as a module."""
    path = Path(__file__).parents[2] / "scripts" / "bench_gpu.py"
    spec = importlib.util.spec_from_file_location("bench_gpu", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bodies(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["body"] for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_the_blend_part_shares_58_percent_of_its_prompts(bench_gpu: ModuleType, tmp_path: Path) -> None:
    """1,696 + 886 requests; the sharing is that of their prefix tree."""
    path = tmp_path / "blend.jsonl"
    bench_gpu.write_part(path, "blend", 1.0, "m")
    bodies = _bodies(path)
    assert len(bodies) == 1696 + 886
    lens = [len(body["prompt"]) for body in bodies]
    table = RequestTable(
        token_ids=np.concatenate([body["prompt"] for body in bodies]).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lens)]).astype(np.int64),
        max_new_tokens=np.array([body["max_tokens"] for body in bodies], np.int64),
        fixed_output=np.ones(len(bodies), np.bool_),
        namespace=np.zeros(len(bodies), np.int32),
    )
    sharing = 1 - build_prefix_tree(table).num_unique_tokens / sum(lens)
    assert sharing == pytest.approx(0.58, abs=0.02)
    assert sorted(set(table.max_new_tokens.tolist()))[-1] <= 1540


def test_the_long_part_generates_more_than_it_reads(bench_gpu: ModuleType, tmp_path: Path) -> None:
    """Most requests are short prompts with long outputs; a smaller scale keeps the kinds."""
    path = tmp_path / "long.jsonl"
    bench_gpu.write_part(path, "long", 0.1, "m")
    bodies = _bodies(path)
    assert len(bodies) == 200
    assert sum(body["max_tokens"] for body in bodies) > sum(len(body["prompt"]) for body in bodies)
    assert all(body["ignore_eos"] for body in bodies)


def test_the_table_compares_with_the_fastest_stock_configuration(bench_gpu: ModuleType) -> None:
    """Without pdmux, which stock SGLang users do not run; a configuration that failed says so."""

    def record(mode: str, policy: str, wall_s: float) -> dict[str, object]:
        run = {
            "wall_s": wall_s, "predicted_s": wall_s * 1.1, "optimum_s": 5.0, "computed_prompt_tokens": 100,
            "mean_batch": 3.0, "retractions": 0,
        }  # fmt: skip
        return {
            "part": "blend", "mode": mode, "policy": policy, "runs": [run], "tree_minimum_prompt_tokens": 100
        }  # fmt: skip

    failed = {"part": "blend", "mode": "pdmux", "policy": "lpm", "runs": [], "error": "exit code 1"}
    rows = [record("none", "fcfs", 20.0), record("mixed", "fcfs", 16.0), record("none", "fcfs@dfs", 10.0)]
    text = bench_gpu._table([*rows, record("pdmux", "dual-scan", 8.0), failed])
    best = text.splitlines()[4].split()
    assert best[:3] == ["blend", "pdmux", "dual-scan"]
    assert best[3:] == ["1", "8.0", "1.25", "x", "2.00", "x", "62%", "1.10", "1.000", "3", "0.0"]
    assert "exit code 1" in text.splitlines()[5]


def test_only_what_should_end_in_time_is_started(bench_gpu: ModuleType, tmp_path: Path) -> None:
    """By the slowest run so far, and as often as orders share the engine; a part never run is started."""
    record = {"runs": [{"wall_s": 40.0}, {"wall_s": 70.0}], "start_s": 50.0}
    (tmp_path / "blend.none.lpm.json").write_text(json.dumps(record))
    assert bench_gpu._expected_s(tmp_path, "blend", 1) == pytest.approx(120.0)
    assert bench_gpu._expected_s(tmp_path, "blend", 2) == pytest.approx(190.0)
    assert bench_gpu._expected_s(tmp_path, "long", 2) == 0.0


def test_a_configuration_goes_on_with_its_next_shuffle(bench_gpu: ModuleType, tmp_path: Path) -> None:
    """What failed is not tried again; orders of a policy share an engine where they have run as often."""
    args = argparse.Namespace(out=tmp_path, shuffles=3)
    records = {
        "fcfs": {"runs": [{}, {}]},
        "fcfs@dfs": {"runs": [{}, {}]},
        "lpm": {"runs": [], "error": "exit code 1"},
    }
    for policy, record in records.items():
        (tmp_path / f"blend.none.{policy}.json").write_text(json.dumps(record))
    left = {
        policy: bench_gpu._num_left(args, ("blend", "none", policy)) for policy in (*records, "dual-scan")
    }
    assert left == {"fcfs": 1, "fcfs@dfs": 1, "lpm": 0, "dual-scan": 3}
    engine = bench_gpu._engine(args, ("blend", "none", "fcfs"))
    assert engine == bench_gpu._engine(args, ("blend", "none", "fcfs@dfs")) == ("blend", "none", "fcfs", 2)


def test_a_call_that_ran_nothing_leaves_what_there_was(bench_gpu: ModuleType) -> None:
    """Runs are added to those of earlier calls; a failed request makes the configuration a failed one."""
    runs = [{"policy": "fcfs", "shuffle": n, "wall_s": 1.0, "failed": 0} for n in range(2)]
    other = {"policy": "fcfs@dfs", "shuffle": 0, "wall_s": 1.0, "failed": 0}
    first = {"runs": [runs[0], other], "tree_minimum_prompt_tokens": 7}
    record = bench_gpu._merged({}, {"policy": "fcfs", "start_s": 5.0}, first)
    assert (record["runs"], record["tree_minimum_prompt_tokens"]) == (runs[:1], 7)
    nothings: list[dict[str, Any]] = [{"runs": []}, {"runs": [], "tree_minimum_prompt_tokens": 0}]
    for nothing in nothings:
        assert bench_gpu._merged(record, {"policy": "fcfs", "start_s": 5.0}, nothing) == record
    again = {"runs": [runs[1] | {"failed": 1}], "tree_minimum_prompt_tokens": 7}
    record = bench_gpu._merged(record, {"policy": "fcfs", "start_s": 5.0}, again)
    assert [run["shuffle"] for run in record["runs"]] == [0, 1]
    assert "error" in record


def test_a_configuration_whose_engine_failed_is_written_down_as_that(
    bench_gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of what it printed counts; what earlier calls measured stays, with the error beside it."""
    args = argparse.Namespace(out=tmp_path, shuffles=3, file=Path("batch.jsonl"))
    run = {"policy": "fcfs", "shuffle": 0, "wall_s": 1.0, "failed": 0}
    printed = json.dumps({"runs": [run], "tree_minimum_prompt_tokens": 7}).encode()
    monkeypatch.setattr(bench_gpu, "_device", lambda: "cpu")
    for code, policies in ((0, ["fcfs"]), (3, ["fcfs", "lpm"])):
        done = subprocess.CompletedProcess([], code, printed)
        monkeypatch.setattr(bench_gpu.subprocess, "run", lambda *given, done=done, **kwargs: done)
        bench_gpu._run(args, [], "batch", "none", policies, 0, 1.0)
    fcfs, lpm = (bench_gpu._read(tmp_path, "batch", "none", policy) for policy in ("fcfs", "lpm"))
    assert (fcfs["runs"], lpm["runs"]) == ([run], [])
    for record in (fcfs, lpm):
        assert record["error"].startswith("exit code 3")
    assert [bench_gpu._num_left(args, ("batch", "none", policy)) for policy in ("fcfs", "lpm")] == [0, 0]
