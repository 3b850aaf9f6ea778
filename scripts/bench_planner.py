#!/usr/bin/env python
"""Measures planning: seconds a stage, peak memory, growth, and SGLang's simulated radix cache beside it.

    python scripts/bench_planner.py 100000
    python scripts/bench_planner.py 1000000 --radix-requests 5000

The job: 60% of the requests begin with one of 57 shared prefixes of 1,200 tokens, the others share nothing;
950 prompt tokens in the mean, random token ids, max_new_tokens 1 to 1,024. Every size runs in its own
process, so that the peak memory is that of one plan. Prints one JSON object; times are wall clock on this
machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sglang_blend.core.orders import PlanConfig, make_schedule, make_workload, order_names
from sglang_blend.core.output_length import OutputLengths
from sglang_blend.core.prefix_tree import build_prefix_tree
from sglang_blend.core.request import RequestTable
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape

NUM_PREFIXES, PREFIX_LEN, SHARED_RATIO, VOCAB = 57, 1200, 0.6, 128_000


def main() -> None:
    """Run the sizes in processes of their own and print what they measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("num_requests", type=int, metavar="N")
    parser.add_argument("--order", default="dual-scan", choices=[n for n in order_names() if n != "auto"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--repeat", type=int, default=3, help="runs of each size; the median time is reported"
    )
    parser.add_argument(
        "--radix-requests",
        type=int,
        default=5000,
        help="requests to insert into SGLang's RadixCache; 0 for none",
    )
    parser.add_argument("--one-size", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one_size:
        print(orjson.dumps(measure(args.num_requests, args.order, args.seed, args.radix_requests)).decode())
        return
    report = median_run(args, args.num_requests, args.radix_requests)
    if args.num_requests >= 10_000:
        smaller = median_run(args, args.num_requests // 10, 0)
        ratio = report["seconds"]["total"] / smaller["seconds"]["total"]
        tokens = report["prompt_tokens"] / smaller["prompt_tokens"]
        report["growth"] = {
            "requests": smaller["requests"],
            "prompt_tokens": smaller["prompt_tokens"],
            "seconds": smaller["seconds"]["total"],
            "times_as_long": ratio,
            "over_linear": ratio / tokens,
        }
    print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())


def median_run(args: argparse.Namespace, num_requests: int, radix_requests: int) -> dict[str, Any]:
    """The run of median total time out of `--repeat`; the radix cache is asked in the last run only."""
    runs = []
    for number in range(args.repeat):
        radix = radix_requests if number == args.repeat - 1 else 0
        command = [sys.executable, __file__, str(num_requests), "--one-size", "--order", args.order]
        command += ["--seed", str(args.seed), "--radix-requests", str(radix)]
        runs.append(orjson.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    totals = [run["seconds"]["total"] for run in runs]
    chosen = runs[int(np.argsort(totals)[len(totals) // 2])]
    radix_cache = runs[-1].get("sglang_radix_cache")
    return (
        chosen
        | {"total_seconds_of_runs": totals}
        | ({"sglang_radix_cache": radix_cache} if radix_cache else {})
    )


def measure(num_requests: int, order: str, seed: int, radix_requests: int) -> dict[str, Any]:
    """Plan one job from its token array to the schedule."""
    columns = make_columns(num_requests, np.random.default_rng(seed))
    token_bytes = columns["token_ids"].nbytes
    cost = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("A100-80"))
    config = PlanConfig(order=order, seed=seed)
    reset_peak_rss()
    clock = [time.perf_counter()]
    table = RequestTable(**columns)
    clock.append(time.perf_counter())
    tree = build_prefix_tree(table)
    clock.append(time.perf_counter())
    lengths = OutputLengths(table, tree, config).estimate()
    workload = make_workload(table, cost, config, tree=tree, lengths=lengths)
    clock.append(time.perf_counter())
    schedule = make_schedule(table, cost, config, workload=workload)
    clock.append(time.perf_counter())
    peak = peak_rss_bytes()
    stages = dict(zip(("table", "tree", "lengths", "order"), np.diff(clock).tolist(), strict=True))
    report: dict[str, Any] = {
        "requests": num_requests,
        "prompt_tokens": table.num_prompt_tokens,
        "seed": seed,
        "order": order,
        "seconds": stages | {"total": clock[-1] - clock[0]},
        "peak_rss_bytes": peak,
        "token_array_bytes": token_bytes,
        "peak_over_token_array": peak / token_bytes,
        "sharing_possible": tree.sharing_possible,
        "sharing_kept": schedule.sharing_kept,
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }
    if radix_requests:
        report["sglang_radix_cache"] = insert_into_radix_cache(table, min(radix_requests, num_requests))
    return report


def make_columns(num_requests: int, rng: np.random.Generator) -> dict[str, Any]:
    """Columns of the table; random ids are drawn in blocks, so that making them needs little memory."""
    prefixes = rng.integers(0, VOCAB, (NUM_PREFIXES, PREFIX_LEN), dtype=np.int32)
    shared = rng.random(num_requests) < SHARED_RATIO
    own_len = np.where(shared, rng.integers(10, 60, num_requests), rng.integers(100, 944, num_requests))
    offsets = np.zeros(num_requests + 1, np.int64)
    np.cumsum(own_len + PREFIX_LEN * shared, out=offsets[1:])
    token_ids = np.empty(offsets[-1], np.int32)
    for begin in range(0, len(token_ids), 1 << 22):
        block = token_ids[begin : begin + (1 << 22)]
        block[:] = rng.integers(0, VOCAB, len(block), dtype=np.int32)
    group = rng.integers(0, NUM_PREFIXES, num_requests)
    for row in np.flatnonzero(shared):
        token_ids[offsets[row] : offsets[row] + PREFIX_LEN] = prefixes[group[row]]
    return {
        "token_ids": token_ids,
        "offsets": offsets,
        "max_new_tokens": rng.integers(1, 1025, num_requests),
        "fixed_output": np.zeros(num_requests, np.bool_),
        "namespace": np.zeros(num_requests, np.int32),
    }


def insert_into_radix_cache(table: RequestTable, num_requests: int) -> dict[str, Any]:
    """Insert the first requests into SGLang's simulated RadixCache, and build our tree of the same ones."""
    try:
        from sglang.srt.mem_cache.base_prefix_cache import InsertParams
        from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey
    except ImportError as error:
        return {"skipped": f"sglang cannot be imported here: {error}"}
    end = int(table.offsets[num_requests])
    part = RequestTable(
        token_ids=table.token_ids[:end],
        offsets=table.offsets[: num_requests + 1],
        max_new_tokens=table.max_new_tokens[:num_requests],
        fixed_output=table.fixed_output[:num_requests],
        namespace=table.namespace[:num_requests],
    )
    keys = [RadixKey(token_ids=array("q", part.prompt(row).tolist())) for row in range(num_requests)]
    cache = RadixCache.create_simulated()
    begin = time.perf_counter()
    for key in keys:
        cache.insert(InsertParams(key=key))
    inserted = time.perf_counter()
    tree = build_prefix_tree(part)
    built = time.perf_counter()
    return {
        "requests": num_requests,
        "whole_job": num_requests == table.n,
        "prompt_tokens": part.num_prompt_tokens,
        "insert_seconds": inserted - begin,
        "our_tree_seconds": built - inserted,
        "tokens_in_cache": cache.total_size(),
        "our_unique_tokens": tree.num_unique_tokens,
    }


def reset_peak_rss() -> None:
    """Forget the peak so far, where Linux allows it; else the peak of making the job counts too."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print(
            "the peak of making the job counts too: /proc/self/clear_refs cannot be written", file=sys.stderr
        )


def peak_rss_bytes() -> int:
    """Peak resident memory of this process."""
    try:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
