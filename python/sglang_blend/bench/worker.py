"""One policy: starts an engine and runs every shuffle through it, each with an empty cache.

Run by `cli.bench` as `python -m sglang_blend.bench.worker CONFIG OUT`, two JSON files, so that every policy
has a fresh process.
"""

from __future__ import annotations

import asyncio
import math
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sglang_blend.bench.matrix import UNPLANNED, Contender, WorkerConfig
from sglang_blend.config import JobConfig, Reading
from sglang_blend.console import complain, log_to_stderr
from sglang_blend.core.cost_model import IntArray
from sglang_blend.engine.protocol import Engine
from sglang_blend.errors import BlendError, EngineError, InputError
from sglang_blend.job.batch_file import BatchFile
from sglang_blend.job.progress import Progress
from sglang_blend.job.spool import RequestSpool
from sglang_blend.job.steps import run_planned
from sglang_blend.job.stop import Stop
from sglang_blend.launch_offline import start_engine
from sglang_blend.plan.job_plan import JobPlan
from sglang_blend.request import Answer, BatchLine, Failure, Prepared
from sglang_blend.simulate.engine_config import SIMULATED_POLICIES


class _Collected:
    """Stands where `Results` does: keeps what the comparison needs."""

    def __init__(self) -> None:
        self.text: dict[str, str] = {}
        self.ok = self.failed = self.prompt_tokens = self.cached_tokens = self.output_tokens = 0
        self.first_failure = ""

    def answer(self, line: BatchLine, answer: Answer) -> None:
        if answer.status_code != 200:
            self._count_failure(f"status {answer.status_code}: {answer.body}")
            return
        self.ok += 1
        self.prompt_tokens += answer.prompt_tokens
        self.cached_tokens += answer.cached_tokens
        self.output_tokens += answer.output_tokens
        self.text[line.custom_id] = "\0".join(_texts(answer.body))

    def fail(self, line: BatchLine, failure: Failure) -> None:
        self._count_failure(failure.message)

    def _count_failure(self, words: str) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or words

    def sync(self) -> None:
        pass


def _texts(body: dict[str, Any]) -> list[str]:
    choices = body.get("choices", [])
    return [c.get("text") or (c.get("message") or {}).get("content") or "" for c in choices]


def run_all(config: WorkerConfig) -> dict[str, Any]:
    """Start the engine, prepare once, run every contender on every shuffle."""
    deadline = math.inf if config.minutes is None else time.monotonic() + 60 * config.minutes
    with BatchFile(config.place, reading=Reading(**config.reading)) as batch:
        contenders = [Contender.parse(text) for text in config.contenders]
        engine_argv = [*config.engine_argv, "--schedule-policy", contenders[0].policy]
        job = JobConfig(file=config.place, window=config.window, max_restarts=0)
        with (
            tempfile.TemporaryDirectory(prefix="sglang-blend-") as tmp,
            start_engine(engine_argv, job, Path(tmp) / "engine.log") as engine,
        ):
            lines = (line for line in batch.scan() if isinstance(line, BatchLine))
            ready = [(line, got) for line, got in engine.prepare(lines) if isinstance(got, Prepared)]
            if not ready:
                raise InputError(f"{config.file} has no line that can be run.")
            return asyncio.run(_run_contenders(batch, engine, ready, contenders, config, deadline))


async def _run_contenders(
    batch: BatchFile,
    engine: Engine,
    prepared: list[tuple[BatchLine, Prepared]],
    contenders: list[Contender],
    config: WorkerConfig,
    deadline: float,
) -> dict[str, Any]:
    runs: list[dict[str, Any]] = []
    tree_minimum = 0
    chosen = np.random.default_rng(0).permutation(len(prepared))[: config.limit]

    async def run_rows(rows: IntArray, contender: Contender) -> tuple[dict[str, Any], int]:
        with RequestSpool() as spool:
            for row in rows.tolist():
                spool.append(*prepared[row])
            return await _run(batch, engine, spool, contender, config)

    async with engine:
        if config.num_warm_up:
            await run_rows(chosen[: config.num_warm_up], contenders[0])
        longest_s = 0.0
        for shuffle in range(config.first_shuffle, config.num_shuffles):
            start = time.monotonic()
            if start + longest_s > deadline:
                break
            rows = chosen if shuffle == 0 else np.random.default_rng(shuffle).permutation(chosen)
            for contender in contenders:
                run, tree_minimum = await run_rows(rows, contender)
                runs.append({"policy": contender.name, "shuffle": shuffle} | run)
            longest_s = max(longest_s, time.monotonic() - start)
    return {"tree_minimum_prompt_tokens": tree_minimum, "runs": runs}


async def _run(
    batch: BatchFile, engine: Engine, spool: RequestSpool, contender: Contender, config: WorkerConfig
) -> tuple[dict[str, Any], int]:
    if not await engine.flush_cache():
        raise EngineError("the cache cannot be emptied while requests run.")
    before = await _totals(engine)
    planned = contender.order != UNPLANNED
    plan = JobPlan(spool.table(), engine.facts(), order=contender.order if planned else "fcfs")
    results = _Collected()
    window = JobConfig(file=config.place, window=config.window).window_for(
        engine.facts().max_running_requests
    )
    start = time.monotonic()
    with Progress(contender.name, len(spool)) as progress:
        await run_planned(
            batch, engine, spool, plan,
            results,  # type: ignore[arg-type]
            progress,
            feeder=engine.feeder(plan.table, window), stop=Stop(), drain_timeout_s=0, send_hints=planned,
        )  # fmt: skip
    wall_s = time.monotonic() - start
    if not results.ok:
        raise EngineError(f"{contender.name}: all {len(spool)} requests failed; {results.first_failure}")
    after = await _totals(engine)
    did = {name: after[name] - before[name] for name in after}
    run = {
        "wall_s": wall_s,
        "scheduler_cpu_s": did["cpu_s"],
        "prompt_tokens": results.prompt_tokens,
        "computed_prompt_tokens": did["prefill_tokens"],
        "cached_prompt_tokens": results.cached_tokens,
        "output_tokens": results.output_tokens,
        "steps": did["steps"],
        "prefill_steps": did["prefill_steps"],
        "mean_batch": did["decode_tokens"] / max(did["num_decode_steps"], 1),
        "retractions": did["retracted"],
        "recomputed_tokens": did["recomputed_tokens"],
        "evicted_wanted_tokens": did.get("num_evicted_wanted_tokens"),
        "tail_s": after["busy_until_s"] - max(after["waited_until_s"], before["busy_until_s"]),
        "policy_ms_per_step": 1e3 * did["policy_s"] / max(did["steps"], 1),
        "order": plan.schedule.order,
        **_simulated(plan, contender),
        "optimum_s": None if (bounds := plan.bounds()) is None else bounds.optimum_s,
        "sampled": len(plan.sample),
        "slowest_policy_ms": 1e3 * after["slowest_policy_s"],
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "ok": results.ok,
        "failed": results.failed,
        "text": results.text,
    }
    return run, plan.tree.num_unique_tokens


def _simulated(plan: JobPlan, contender: Contender) -> dict[str, Any]:
    """The same job simulated, with the lengths that came out; None for orders that it does not know."""
    known = contender.policy in SIMULATED_POLICIES and contender.order != UNPLANNED
    result = plan.simulate_as_it_turned_out() if known else None
    return {
        "predicted_s": None if result is None else result.makespan_s,
        "simulated_steps": None if result is None else result.num_steps,
        "simulated_computed_tokens": None
        if result is None
        else result.computed_tokens + result.recomputed_tokens,
        "simulated_retractions": None if result is None else result.retractions,
    }


async def _totals(engine: Engine) -> dict[str, float]:
    state: dict[str, Any] = (await engine.server_info())[0]["blend"]
    totals: dict[str, float] = state["totals"] | state.get("radix_cache", {})
    totals |= {"slowest_policy_s": state["slowest_policy_s"], "cpu_s": state["cpu_s"]}
    return totals


def main() -> int:
    """Run as a process; returns the exit code."""
    log_to_stderr()
    given = orjson.loads(Path(sys.argv[1]).read_bytes())
    config = WorkerConfig(**given)
    try:
        report = run_all(config)
    except BlendError as e:
        complain(f"bench: {e}")
        return e.exit_code
    Path(sys.argv[2]).write_bytes(orjson.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
