"""`sglang-blend bench`, with workers that start no engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from sglang_blend.bench.matrix import WorkerConfig
from sglang_blend.cli import bench, main
from sglang_blend.errors import EngineError


@pytest.mark.parametrize(
    ("end", "exit_code", "words"),
    [
        (EngineError("the engine for lpm failed."), 2, "the engine for lpm failed."),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_was_measured_before_the_end_is_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: BaseException,
    exit_code: int,
    words: str,
) -> None:
    """A policy that fails, or Ctrl-C, costs that policy and not the hours before it."""

    def run_worker(config: WorkerConfig) -> dict[str, Any]:
        if config.contenders == ["lpm"]:
            raise end
        return {"tree_minimum_prompt_tokens": 7, "runs": [{"policy": "fcfs", "text": {"a": "x"}}]}

    monkeypatch.setattr(bench, "_run_worker", run_worker)
    assert (
        main(["bench", "--file", str(tmp_path / "b.jsonl"), "--policies", "fcfs,lpm", "--json"]) == exit_code
    )
    shown = capsys.readouterr()
    assert [run["policy"] for run in orjson.loads(shown.out)["runs"]] == ["fcfs"]
    assert words in shown.err
    assert "Traceback" not in shown.err
