"""The records of a job, as the report reads them: from the files beside an output, or from a simulation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from sglang_blend.config import JobConfig, JobFiles, resolve_files
from sglang_blend.errors import InputError
from sglang_blend.job.records import error_of
from sglang_blend.location import Location, read_small
from sglang_blend.scheduling.step_records import COLUMNS, EngineSteps, read_steps
from sglang_blend.simulate.simulated_job import Simulation

# Of the error file, as much is read as will show an example of every reason.
_ERROR_LINES = 20_000


class Failures(NamedTuple):
    """Failed lines of one reason; `example` is a message, of input line `line` where that is known."""

    code: str
    num_lines: int
    example: str
    line: int | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a job: its plan, a sample of its requests, how it ended. Empty where it was killed."""

    plan: dict[str, Any] = field(default_factory=dict)
    requests: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """Everything known of a job.

    Attributes:
        name: of the output, or of what was simulated.
        summary: content of the summary file.
        runs: in the order they ran; a resumed job has several.
        engines: what each engine did, step by step; of several replicas, those of the first that has steps.
        replicas: the engines of each replica; empty for a job on one.
        failures: by reason, the most frequent first.
        simulated: nothing of it was measured.
        notes: what a reader must know about gaps in the records.
    """

    name: str
    summary: dict[str, Any]
    runs: list[Run]
    engines: list[EngineSteps]
    failures: list[Failures]
    simulated: bool = False
    notes: tuple[str, ...] = ()
    replicas: list[list[EngineSteps]] = field(default_factory=list)

    @property
    def plan(self) -> dict[str, Any]:
        """Of the run with the most requests: that of a job that was never interrupted."""
        plans = [run.plan for run in self.runs if "requests" in run.plan]
        return max(plans, key=lambda plan: int(plan["requests"]), default={})


def read_job(output: Location, *, summary_file: Location | None = None) -> JobRecord:
    """Read what lies beside an output.

    Args:
        output: the output file, which need not exist any more, or the batch file it was made from.
        summary_file: where the job wrote its summary, if not beside the output.

    Raises:
        InputError: there is no summary of a job.
    """
    files = resolve_files(JobConfig(file=Path(os.devnull), output=output, summary_file=summary_file))
    try:
        content = read_small(files.summary_file)
        summary = None if content is None else orjson.loads(content)
    except (OSError, orjson.JSONDecodeError) as e:
        raise InputError(f"{files.summary_file} cannot be read as the summary of a job ({e}).") from e
    if not isinstance(summary, dict) or "ok" not in summary:
        raise InputError(
            f"{files.summary_file} is not there or not the summary of a job; name the output of a job that "
            "ran."
        )
    runs = list(_runs(files.runs_file)) if files.runs_file.exists() else []
    num_replicas = max((run.end["cluster"]["replicas"] for run in runs if "cluster" in run.end), default=0)
    replicas = [_engines(_of_rank(files.steps_file, slot)) for slot in range(num_replicas)]
    # One that was ready when the job was nearly done has no steps.
    engines = next(filter(None, replicas), []) if replicas else _engines(files.steps_file)
    return JobRecord(
        name=str(summary["output"]),
        summary=summary,
        runs=runs,
        engines=engines,
        failures=_failures(summary, files),
        notes=tuple(_notes(files, runs, engines, num_replicas)),
        replicas=replicas,
    )


def simulated_job(
    name: str,
    result: Simulation,
    plan: dict[str, Any],
    *,
    output_len: np.ndarray[Any, Any],
    est_output_len: np.ndarray[Any, Any],
    config: dict[str, Any],
) -> JobRecord:
    """The record of a simulated run, in the same form.

    Args:
        result: with its timeline.
        plan: from `job.plan_facts.workload_facts`.
        output_len, est_output_len: (n,) of each request, tokens.
        config: what was simulated, to be shown.
    """
    prompt_tokens = int(plan["prompt_tokens"])
    bounds = result.bounds
    run = Run(
        plan=plan
        | {
            "bounds": {
                "compute_s": bounds.compute_s,
                "memory_s": bounds.memory_s,
                "weight_s": bounds.weight_s,
                "optimum_s": bounds.optimum_s,
                "practical_s": bounds.practical_s,
                "sequential_s": bounds.sequential_s,
            },
        },
        requests={"num_requests": len(output_len), "sample": _sampled(output_len, est_output_len)},
        end={
            "seconds": {"generate": result.makespan_s},
            "ok": len(output_len),
            "failed": 0,
            "prompt_tokens": prompt_tokens,
            "cached_tokens": prompt_tokens - result.computed_tokens,
            "output_tokens": int(output_len.sum()),
            "schedulers": [
                {
                    "totals": {
                        "steps": result.num_steps,
                        "retracted": result.retractions,
                        "recomputed_tokens": result.recomputed_tokens,
                    }
                }
            ],
        },
    )
    summary = {
        "ok": len(output_len),
        "failed": 0,
        "not_run": 0,
        "complete": True,
        "prompt_tokens": prompt_tokens,
        "cached_tokens": prompt_tokens - result.computed_tokens,
        "output_tokens": int(output_len.sum()),
        "generate_s": result.makespan_s,
        "config": config,
    }
    return JobRecord(
        name=name,
        summary=summary,
        runs=[run],
        engines=[_simulated_steps(result, int(plan["kv_pool_tokens"]))],
        failures=[],
        simulated=True,
    )


def _simulated_steps(result: Simulation, kv_pool_tokens: int) -> EngineSteps:
    steps = result.timeline
    assert steps is not None, "simulate with record_timeline"
    left = steps.left_ratio
    start_s = np.concatenate([[0.0], steps.end_s[:-1]])
    zeros = np.zeros(len(start_s))
    columns: dict[str, Any] = {
        "start_s": start_s,
        "t_s": start_s,
        "steps": steps.num_steps,
        "prefill_tokens": steps.prefill_tokens,
        "decode_tokens": steps.decode_tokens,
        "compute_s": steps.compute_s,
        "kv_read_s": steps.kv_read_s,
        "weight_read_s": steps.weight_read_s,
        "num_running": steps.batch_size,
        "num_waiting": steps.num_waiting,
        "kv_used_tokens": steps.tokens_in_use,
    }
    lists = [columns.get(name, zeros).tolist() for name in COLUMNS]
    records = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*lists, strict=True)]
    for record, share in zip(records, [None] * len(records) if left is None else left.tolist(), strict=True):
        record["density"] = record["decode_sm_share"] = None
        record["kv_left_tokens"] = None if share is None else share * record["kv_used_tokens"]
        record["kv_right_tokens"] = None if share is None else (1 - share) * record["kv_used_tokens"]
    header = {"kv_pool_tokens": kv_pool_tokens, "end_s": result.makespan_s}
    return EngineSteps(header, records)


def _sampled(output_len: np.ndarray[Any, Any], est_output_len: np.ndarray[Any, Any]) -> dict[str, Any]:
    rows = np.arange(len(output_len))
    if len(rows) > 20_000:
        rows = np.sort(np.random.default_rng(0).choice(rows, 20_000, replace=False))
    return {"output_len": output_len[rows].tolist(), "est_output_len": est_output_len[rows].tolist()}


def _engines(steps_file: Path) -> list[EngineSteps]:
    return list(read_steps(steps_file)) if steps_file.exists() else []


def _of_rank(steps_file: Path, rank: int) -> Path:
    """Where the steps of a data-parallel rank, or of a replica, are."""
    return steps_file.with_name(f"{steps_file.name}.{rank}") if rank else steps_file


def _runs(path: Path) -> Iterator[Run]:
    parts: dict[str, Any] = {}
    with path.open("rb") as file:
        for line in file:
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if "plan" in value and parts:
                yield Run(**parts)
                parts = {}
            parts |= {kind: value[kind] for kind in ("plan", "requests", "end") if kind in value}
    if parts:
        yield Run(**parts)


def _failures(summary: dict[str, Any], files: JobFiles) -> list[Failures]:
    counts: dict[str, int] = summary.get("failed_by_code", {})
    examples: dict[str, tuple[str, int | None]] = {}
    error_file = Path(summary.get("error_file", files.error_file))
    if counts and error_file.is_file():
        with error_file.open("rb") as file:
            for line in islice(file, _ERROR_LINES):
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                error = error_of(record)
                code = error.get("code") or (record.get("response") or {}).get("status_code")
                examples.setdefault(str(code), (str(error.get("message", "")), error.get("line")))
    return sorted(
        (Failures(code, count, *examples.get(code, ("", None))) for code, count in counts.items()),
        key=lambda failures: (-failures.num_lines, failures.code),
    )


def _notes(files: JobFiles, runs: list[Run], engines: list[EngineSteps], num_replicas: int) -> Iterator[str]:
    if not engines:
        yield f"No steps were recorded ({files.steps_file.name} is not there), so there is no timeline."
    if not runs:
        yield f"No run was recorded ({files.runs_file.name} is not there), so there is no plan."
    if any(not run.end for run in runs):
        yield "A run was killed before it could write how it ended; its steps are in the timeline."
    if num_replicas > 1:
        yield f"The charts over time are those of the first of {num_replicas} replicas that has steps."
        return
    ranks = len(list(files.steps_file.parent.glob(f"{files.steps_file.name}.[0-9]*")))
    if ranks:
        yield f"The timeline is that of the first of {ranks + 1} data-parallel ranks."
