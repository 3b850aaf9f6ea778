"""What the Ray path costs against the plain path, on a simulated engine of a fixed rate.

    python scripts/bench_ray.py --requests 3000 --rate 50 --repeats 3

Both paths run the same job with the same simulated engine, which answers `--rate` requests a second in the
order it gets them, `--batch` at a time: once in the job's own process, once in one Ray actor. Printed is the
makespan of each and the CPU time that the driver spent; the engine is simulated, the paths are real.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from sglang_blend.cluster.cluster_config import ClusterConfig
from sglang_blend.cluster.cluster_engine import ClusterEngine
from sglang_blend.cluster.replica_worker import AnsweringEngine, ReplicaWorker
from sglang_blend.config import JobConfig
from sglang_blend.console import log_to_stderr
from sglang_blend.core import RequestTable
from sglang_blend.engine.messages import Ask
from sglang_blend.engine.protocol import Engine
from sglang_blend.engine.supervisor import SupervisorConfig
from sglang_blend.job.offline import OfflineJob
from sglang_blend.plan.feed import WindowFeeder
from sglang_blend.request import Answer, BatchLine, EngineFacts, Prepared

ANSWER_TOKENS = 64


class PacedEngine:
    """Answers so many requests a second, so many at a time."""

    num_restarts = num_retries = 0

    def __init__(self, rate: float, batch: int) -> None:
        self._rate, self._batch = rate, batch
        self._next_end = 0.0

    def __enter__(self) -> PacedEngine:
        return self

    def __exit__(self, *exc: object) -> None: ...

    async def __aenter__(self) -> PacedEngine:
        self._running = asyncio.Semaphore(self._batch)
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    def facts(self) -> EngineFacts:
        return EngineFacts({}, "cpu", 1, 1_000_000, 1, self._batch, "dual-scan")

    def record(self) -> dict[str, Any]:
        return {}

    async def server_info(self) -> list[dict[str, Any]]:
        running = self._batch - self._running._value
        return [{"blend": {"num_running": running, "num_waiting": len(self._running._waiters or ())}}]

    async def flush_cache(self) -> bool:
        return True

    def feeder(self, table: RequestTable, window: int) -> WindowFeeder:
        return WindowFeeder(lambda row, line, hints: self.answer(Ask(line, table.prompt(row), hints)), window)

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared]]:
        return prepare_words(lines)

    def close(self) -> None: ...

    async def answer(self, ask: Ask) -> Answer:
        """Full batch: one request ends every `1 / rate` seconds."""
        async with self._running:
            self._next_end = max(self._next_end, time.monotonic()) + 1 / self._rate
            await asyncio.sleep(self._next_end - time.monotonic())
            text = "word " * ANSWER_TOKENS
            return Answer(200, {"choices": [{"text": text}]}, len(ask.token_ids), 0, ANSWER_TOKENS)


class PacedWorker(ReplicaWorker):
    """A replica of it; the flags are its numbers."""

    @staticmethod
    def make_engine(
        argv: Sequence[str], log: Path, steps_file: Path, supervision: SupervisorConfig
    ) -> AnsweringEngine:
        return PacedEngine(float(argv[0]), int(argv[1]))


class WordPreparer:
    """Prepares by words, in place of a tokenizer."""

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared]]:
        return prepare_words(lines)

    def close(self) -> None: ...


def prepare_words(lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared]]:
    for line in lines:
        ids = [hash(word) % 50_000 for word in line.body["prompt"].split()]
        yield line, Prepared(ids, ANSWER_TOKENS, True, "")


def run(path: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """One job on one of the paths."""
    config = JobConfig(
        file=folder / "batch.jsonl", output=folder / f"{path}.jsonl", overwrite=True, order="dfs"
    )

    def start() -> Engine:
        if path == "plain":
            return PacedEngine(args.rate, args.batch)
        argv = [str(args.rate), str(args.batch)]
        return ClusterEngine(argv, ClusterConfig(replicas=1), WordPreparer, worker=PacedWorker)

    before = resource.getrusage(resource.RUSAGE_SELF)
    summary = OfflineJob(config).run(start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert summary.ok == args.requests, summary
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"generate_s": summary.generate_s, "driver_cpu_s": cpu_s}


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=3000, help="of the job (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="answers a second (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="answered at a time (default: %(default)s)")
    parser.add_argument("--prompt-words", type=int, default=500, help="of a prompt (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each path, in turn (default: %(default)s)")
    args = parser.parse_args()
    log_to_stderr("warning")
    seconds: dict[str, list[dict[str, float]]] = {"plain": [], "ray": []}
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        with (folder / "batch.jsonl").open("wb") as file:
            for number in range(args.requests):
                prompt = " ".join(f"w{number * 31 + place}" for place in range(args.prompt_words))
                body = {"model": "none", "prompt": prompt, "max_tokens": ANSWER_TOKENS}
                line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": body}
                file.write(orjson.dumps(line) + b"\n")
        for _ in range(args.repeats):
            for path, runs in seconds.items():
                runs.append(run(path, folder, args))
                print(path, runs[-1], file=sys.stderr)
    median = {
        path: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for path, runs in seconds.items()
    }
    overhead = median["ray"]["generate_s"] / median["plain"]["generate_s"] - 1
    print(
        orjson.dumps({"median": median, "overhead_ratio": overhead, "simulated_engine": vars(args)}).decode()
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
