"""What the scheduler writes about its steps is what the report reads."""

from pathlib import Path

from sglang_blend.jsonl import BoundedLines
from sglang_blend.scheduling.step_records import StepRecord, read_steps, run_header


def test_every_engine_of_a_file_comes_back_with_its_records(tmp_path: Path) -> None:
    path = tmp_path / "batch.steps.jsonl"
    for start in (0, 10):
        lines = BoundedLines(path)
        lines.append(run_header(policy="dual-scan", kv_pool_tokens=4000))
        lines.append(StepRecord(start_s=start, steps=3, decode_tokens=7, density=0.123456789).to_json())
        lines.append(StepRecord(start_s=start + 1, steps=1).to_json())
        lines.close()
    first, second = read_steps(path)
    assert first.header["kv_pool_tokens"] == second.header["kv_pool_tokens"] == 4000
    assert [record["start_s"] for record in first.records] == [0, 1]
    assert [record["start_s"] for record in second.records] == [10, 11]
    assert (first.records[0]["steps"], first.records[0]["decode_tokens"]) == (3, 7)
    assert first.records[0]["density"] == 0.123457
    assert first.records[1]["density"] is None


def test_lines_that_are_not_records_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "batch.steps.jsonl"
    path.write_bytes(b'[1]\n{"run":{"columns":["a","b"]}}\n[1,2]\n[1]\n{"x"\nnull\n[3,4]\n[5')
    (engine,) = read_steps(path)
    assert engine.records == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
