"""The records of a job as its processes write them, made from numbers: for tests that read reports."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sglang_blend.core import PlanConfig, RequestTable
from sglang_blend.core.orders import make_schedule, make_workload
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.job.plan_facts import workload_facts
from sglang_blend.job.run_record import RequestSample
from sglang_blend.jsonl import BoundedLines
from sglang_blend.scheduling.step_records import StepRecord, run_header

NASTY = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
POOL = 20_000


def write_job(
    folder: Path, *, num_steps: int = 900, num_engines: int = 1, step_s: float = 0.1, stem: str = "batch"
) -> Path:
    """Write everything that lies beside an output; returns the output's path, which has no content.

    Every text that a user or a model could have chosen holds `NASTY`.
    """
    output = folder / f"{stem}.output.jsonl"
    for engine in range(num_engines):
        _write_engine(folder / f"{stem}.steps.jsonl", num_steps // num_engines, step_s, engine)
    facts = plan_facts()
    sample = RequestSample()
    rng = np.random.default_rng(0)
    for row in range(200):
        output_len = int(rng.integers(1, 300))
        estimate = math.nan if row < 5 else int(output_len * rng.uniform(0.3, 2)) + 1
        sample.add(row * 0.1, float(rng.exponential(20)), row, 400, 300, output_len, estimate, 512)
    seconds = {"read": 0.2, "prepare": 3.0, "start_engine": 12.0, "plan": 0.1, "generate": num_steps * step_s}
    end = {
        "seconds": seconds, "ok": 200, "failed": 7, "prompt_tokens": 80_000, "cached_tokens": 60_000,
        "output_tokens": 30_000, "num_restarts": num_engines - 1, "engine_argv": ["--model-path", NASTY],
        "schedulers": [{"totals": {"steps": num_steps, "retracted": 3, "recomputed_tokens": 900}}],
    }  # fmt: skip
    lines = BoundedLines(folder / f"{stem}.runs.jsonl")
    lines.append({"plan": {"started_at": 1.7e9, **facts}})
    lines.append({"requests": sample.to_json()})
    lines.append({"end": end})
    lines.close()
    error = {"code": NASTY, "message": f"Line 3: {NASTY}", "type": "invalid_request_error", "line": 3}
    record = {"custom_id": NASTY, "response": {"status_code": 400, "body": {"error": error}}, "error": None}
    (folder / f"{stem}.errors.jsonl").write_bytes(orjson.dumps(record) + b"\n")
    summary = {
        "file": f"{folder}/{NASTY}.jsonl", "output": f"{folder}/{NASTY}.output.jsonl",
        "error_file": str(folder / f"{stem}.errors.jsonl"), "ok": 200, "failed": 7, "not_run": 0,
        "failed_by_code": {NASTY: 5, "engine_crash": 2}, "complete": True, "stopped_by": None,
        "prompt_tokens": 80_000, "cached_tokens": 60_000, "output_tokens": 30_000, "sharing_possible": 0.8,
        "generate_s": num_steps * step_s, "config": {"order": NASTY, "window": 256},
    }  # fmt: skip
    (folder / f"{stem}.summary.json").write_bytes(orjson.dumps(summary))
    return output


def plan_facts() -> dict[str, Any]:
    """Of a small job with two long shared prefixes."""
    prompts = [[1] * 600 + [100 + i] * 20 for i in range(30)] + [[2] * 90 + [500 + i] for i in range(60)]
    table = RequestTable.from_lists(prompts, max_new_tokens=[20] * 30 + [800] * 60)
    cost = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("A100"), pool_tokens=POOL)
    config = PlanConfig(order="dual-scan")
    workload = make_workload(table, cost, config)
    facts = workload_facts(workload, make_schedule(table, cost, config, workload=workload), lambda row: NASTY)
    bounds = {"compute_s": 40.0, "memory_s": 30.0, "optimum_s": 40.0, "sequential_s": 70.0}
    return facts | {"bounds": bounds, "predicted": {"makespan_s": 80.0, "orders": {"dual-scan": 80.0}}}


def _write_engine(path: Path, num_steps: int, step_s: float, engine: int) -> None:
    lines = BoundedLines(path)
    lines.append(
        run_header(
            started_at=1.7e9 + 1000 * engine, policy="dual-scan", model=NASTY, device=NASTY, tp_size=2,
            kv_pool_tokens=POOL, page_size=1, max_running_requests=64,
            hardware={
                "name": "A100", "effective_flop_per_s": 2.5e14, "effective_bytes_per_s": 1.76e12,
                "effective_source": "study",
            },
        )
    )  # fmt: skip
    for step in range(num_steps):
        wave = math.sin(step / 40)
        record = StepRecord(
            start_s=step * step_s,
            t_s=step * step_s,
            steps=1,
            prefill_tokens=512 if step % 7 == 0 else 0,
            decode_tokens=30,
            cached_tokens=100,
            compute_s=step_s * (0.5 + 0.3 * wave),
            kv_read_s=step_s * (0.5 - 0.3 * wave),
            weight_read_s=step_s * 0.1,
            num_running=30,
            num_waiting=max(100 - step // 8, 0),
            kv_used_tokens=int(POOL * (0.7 + 0.2 * wave)),
            kv_left_tokens=9000 + 3000 * wave,
            kv_right_tokens=6000 - 2000 * wave,
            density=1 + wave,
            decode_sm_share=(0.25, 0.5, 1.0)[step // 30 % 3],
        )
        lines.append(record.to_json())
    lines.close()
