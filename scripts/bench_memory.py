#!/usr/bin/env python
"""Measures the job's own memory and speed: a large batch file through an engine that costs nothing.

    python scripts/bench_memory.py 1000000

The engine is a stand-in that answers at once with a text of 300 characters, because what is measured is this
package: reading, planning, feeding, writing, and reading its own results on resume. Prompts have 200 tokens,
of which 150 are one of 57 prefixes. Runs in processes of their own: the job, then the same job once more on a
touched input, which makes it read all of its input and results. Prints one JSON object; times are wall clock.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sglang_blend.config import JobConfig
from sglang_blend.core import RequestTable
from sglang_blend.engine.messages import Ask
from sglang_blend.job.offline import OfflineJob
from sglang_blend.job.summary import Summary
from sglang_blend.plan.feed import WindowFeeder
from sglang_blend.request import Answer, BatchLine, EngineFacts, Prepared

NUM_PREFIXES, PREFIX_LEN, OWN_LEN, VOCAB = 57, 150, 50, 128_000
PROMPT_CHARS, ANSWER_CHARS = 800, 300


class FreeEngine:
    """`engine.protocol.Engine` that makes token ids up from the line number and answers at once."""

    num_restarts = num_retries = 0

    def __init__(self) -> None:
        self._prefixes = np.random.default_rng(0).integers(
            VOCAB, size=(NUM_PREFIXES, PREFIX_LEN), dtype=np.int32
        )

    def __enter__(self) -> FreeEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    async def __aenter__(self) -> FreeEngine:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def facts(self) -> EngineFacts:
        return EngineFacts({}, "cpu", 1, 1_000_000, 1, 512, "dual-scan")

    async def server_info(self) -> list[dict[str, Any]]:
        return [{}]

    async def flush_cache(self) -> bool:
        return True

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared]]:
        for line in lines:
            prefix = self._prefixes[line.line_number * 7919 % NUM_PREFIXES]
            own = np.arange(OWN_LEN, dtype=np.int32) * line.line_number % VOCAB
            yield line, Prepared(np.concatenate([prefix, own]), 64, False, "")

    def feeder(self, table: RequestTable, window: int) -> WindowFeeder:
        return WindowFeeder(lambda row, line, hints: self.answer(Ask(line, table.prompt(row), hints)), window)

    def record(self) -> dict[str, Any]:
        return {}

    async def answer(self, ask: Ask) -> Answer:
        await asyncio.sleep(0)
        usage = {"prompt_tokens": len(ask.token_ids), "completion_tokens": 64}
        choice = {"index": 0, "text": "x" * ANSWER_CHARS, "logprobs": None, "finish_reason": "stop"}
        body = {"object": "text_completion", "model": "none", "choices": [choice], "usage": usage}
        return Answer(200, body, len(ask.token_ids), 0, 64)


def main() -> None:
    """Write the batch file, run the job twice, print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("num_lines", type=int, metavar="N")
    parser.add_argument("--directory", type=Path, help="for the files (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        batch = Path(directory) / "batch.jsonl"
        write_batch(batch, args.num_lines)
        first, first_memory = in_process(batch)
        os.utime(batch)
        second, second_memory = in_process(batch)
        result = {
            "lines": args.num_lines,
            "input_bytes": batch.stat().st_size,
            "output_bytes": batch.with_name("batch.output.jsonl").stat().st_size,
            "token_array_bytes": args.num_lines * (PREFIX_LEN + OWN_LEN) * 4,
            "job": measured(first, first_memory, args.num_lines),
            "resume_of_the_finished_job": measured(second, second_memory, args.num_lines),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        }
    sys.stdout.write(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode() + "\n")


def write_batch(path: Path, num_lines: int) -> None:
    """Completion lines of about a kilobyte."""
    text = "word " * (PROMPT_CHARS // 5)
    with path.open("wb") as file:
        for i in range(num_lines):
            body = {"model": "default", "prompt": f"{i} {text}", "max_tokens": 64, "temperature": 0}
            line = {"custom_id": f"request-{i}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(orjson.dumps(line) + b"\n")


def in_process(batch: Path) -> tuple[Summary, dict[str, int]]:
    """Run the job in a fresh process; its summary and its memory at the end."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, (batch,))


def run(batch: Path) -> tuple[Summary, dict[str, int]]:
    """Run the job here."""
    summary = OfflineJob(JobConfig(file=batch)).run(FreeEngine)
    status = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in status if line.endswith(" kB")}
    return summary, {name: int(values[name]) * 1024 for name in ("VmHWM", "RssAnon", "RssFile")}


def measured(summary: Summary, memory: dict[str, int], num_lines: int) -> dict[str, Any]:
    """Seconds, lines a second, bytes."""
    seconds = {"read": summary.read_s, "prepare": summary.prepare_s, "generate": summary.generate_s}
    return {
        "ok": summary.ok,
        "wall_s": round(summary.wall_s, 2),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "lines_per_s": {name: round(num_lines / value) for name, value in seconds.items() if value},
        "peak_memory_bytes": memory["VmHWM"],
        "at_the_end": {"anonymous_bytes": memory["RssAnon"], "mapped_file_bytes": memory["RssFile"]},
    }


if __name__ == "__main__":
    main()
