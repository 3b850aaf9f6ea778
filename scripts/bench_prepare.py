"""Lines and tokens prepared a second: in one process, and by 1, 2, ... workers; the token ids must be equal.

    .venv/bin/python scripts/bench_prepare.py batch.jsonl --workers 1 2

Start-up (imports, tokenizer) is not counted. With SGLang's flags after `--`, another model's tokenizer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sglang_blend.demo_model import demo_model_path
from sglang_blend.job.batch_file import BatchFile
from sglang_blend.request import BatchLine, Prepared, Rejection

Results = Iterable[tuple[BatchLine, Prepared | Rejection]]


def lines_of(path: Path) -> list[BatchLine]:
    with BatchFile(path) as batch:
        return [item for item in batch.scan() if isinstance(item, BatchLine)]


def measure(results: Results) -> dict[str, Any]:
    """Rates, and a digest of everything that came out, in order."""
    digest = hashlib.sha256()
    num_lines = num_tokens = num_refused = 0
    start = time.monotonic()
    for _, prepared in results:
        num_lines += 1
        if isinstance(prepared, Rejection):
            num_refused += 1
            digest.update(repr(vars(prepared)).encode())
        else:
            num_tokens += len(prepared.token_ids)
            digest.update(np.asarray(prepared.token_ids, np.int32).tobytes() + repr(prepared[1:]).encode())
    seconds = time.monotonic() - start
    return {
        "lines_per_s": round(num_lines / seconds),
        "tokens_per_s": round(num_tokens / seconds),
        "seconds": round(seconds, 2),
        "lines": num_lines,
        "refused": num_refused,
        "sha256": digest.hexdigest()[:16],
    }


def in_one_process(path: Path, engine_argv: list[str], answer: Any) -> None:
    """The serving classes called line by line, as before there were workers."""
    from sglang_blend.srt.flags import server_args
    from sglang_blend.srt.serving import Serving, tokenizer_manager_alone

    serving = Serving(*tokenizer_manager_alone(server_args(engine_argv)))

    def prepared() -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        for line in lines_of(path):
            yield line, serving.prepare(line)

    answer.put(measure(prepared()))


def by_workers(path: Path, engine_argv: list[str], num_workers: int) -> dict[str, Any]:
    from sglang_blend.engine.nursery import Nursery
    from sglang_blend.engine.prepare_pool import PreparePool

    with tempfile.TemporaryDirectory() as tmp, Nursery(Path(tmp) / "log") as nursery:
        pool = PreparePool(nursery, engine_argv, num_workers=num_workers)
        lines = lines_of(path)
        list(pool.prepare(lines[: 64 * num_workers]))  # all workers are up
        return measure(pool.prepare(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args, rest = parser.parse_known_args()
    engine_argv = [arg for arg in rest if arg != "--"] or ["--model-path", str(demo_model_path())]
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=in_one_process, args=(args.file, engine_argv, answer))
    process.start()
    results = {"one process": answer.get()}
    process.join()
    for num_workers in args.workers:
        results[f"{num_workers} workers"] = by_workers(args.file, engine_argv, num_workers)
    for name, result in results.items():
        ratio = result["lines_per_s"] / results["one process"]["lines_per_s"]
        print(json.dumps({"by": name, **result, "times": round(ratio, 2)}))
    assert len({result["sha256"] for result in results.values()}) == 1, "the results differ"


if __name__ == "__main__":
    main()
