"""Policies times overlap modes on a GPU, with the same flags; resumable, so that it fits into short commands.

    scripts/bench_gpu.sh --minutes 9                 # what should end in time; call it again to go on
    scripts/bench_gpu.sh --table                     # what there is

Parts: `blend` (a pool of 300,000 tokens, 1,696 compute-intensive requests with long shared prefixes and 886
memory-intensive ones, sharing 58%), `long` (most requests generate for long). Both are token ids with
`ignore_eos` for a Llama-3-8B shape with random weights, so lengths are exact. `--file` measures a file of
one's own, with `--model-path`, instead. Every engine runs 32 requests before it is measured and starts each
run with an empty cache. One JSON file a part, mode and policy lies in `--out`; those that are there are not
run again; of a configuration that has too few shuffles, the next ones are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from functools import cache
from itertools import groupby
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from sglang_blend.random_model import random_model_path

POLICIES = ("dual-scan", "stationary", "fcfs@dfs", "fcfs", "lpm", "dfs-weight")
MODES = ("none", "mixed", "pdmux")
PARTS = ("blend", "long")
MODEL = "llama-3-8b"
_VOCABULARY = 40_000  # of the demo model's tokenizer, 49,152, without its special tokens
_GROUPS = 60
_WARM_UP = 32
_LEAST_S = 10.0  # no engine is started with less time left
# SGLang's CUDA graphs end at a batch of 256 on one GPU; `long` decodes up to 480 requests at a time.
_GRAPH_SIZES = "1 2 4 8 16 24 32 48 64 96 128 160 192 224 256 320 384 448 512"


def write_part(path: Path, part: str, scale: float, model: str, seed: int = 0) -> None:
    """Write a batch file of one part, shuffled.

    Args:
        scale: of the numbers of requests; the groups that share a prefix get smaller, not fewer.
    """
    rng = np.random.default_rng(seed)
    num_left, num_right = (1696, 886) if part == "blend" else (400, 1600)
    num_left, num_right = max(1, round(num_left * scale)), max(1, round(num_right * scale))
    groups = min(_GROUPS, num_left)
    prefixes = [_ids(rng, rng.integers(1000, 2001)) for _ in range(groups)]
    bodies = [
        (prefixes[i % groups] + _ids(rng, rng.integers(200, 501)), int(rng.integers(1, 6)))
        for i in range(num_left)
    ]
    for _ in range(num_right):
        prompt_len = rng.integers(800, 1601) if part == "blend" else rng.integers(40, 101)
        output_len = int(min(rng.lognormal(np.log(700 if part == "blend" else 1400), 0.35), 3000))
        bodies.append((_ids(rng, prompt_len), min(output_len, 1540) if part == "blend" else output_len))
    with path.open("w") as file:
        for number in rng.permutation(len(bodies)).tolist():
            prompt, max_tokens = bodies[number]
            body = {
                "model": model,
                "prompt": prompt,
                "max_tokens": max_tokens,
                "ignore_eos": True,
                "temperature": 0,
            }
            line = {"custom_id": f"r{number:06d}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def _ids(rng: np.random.Generator, length: int) -> list[int]:
    ids: list[int] = rng.integers(100, _VOCABULARY, length).tolist()
    return ids


def main() -> int:
    """Run what is missing until the time is over, then print the table; 0 when nothing is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, default=Path("bench-gpu"), help="folder of the results (default: %(default)s)")
    add("--parts", default=",".join(PARTS), help="default: %(default)s")
    add("--file", type=Path, help="this batch file instead of the parts; wants --model-path among the flags")
    add("--modes", default=",".join(MODES), help="default: %(default)s")
    add("--policies", default=",".join(POLICIES), help="default: %(default)s")
    add("--shuffles", type=int, default=3, help="default: %(default)s")
    add("--scale", type=float, default=1.0, help="of the number of requests (default: %(default)s)")
    add("--model", default=MODEL, help="shape with random weights (default: %(default)s)")
    add(
        "--minutes",
        type=float,
        default=9.0,
        help="run only what should end within this time (default: %(default)s)",
    )
    add("--table", action="store_true", help="only print what is there")
    args, flags = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    parts = [args.file.name.split(".")[0]] if args.file else args.parts.split(",")
    wanted = [
        (part, mode, policy)
        for mode in args.modes.split(",")
        for part in parts
        for policy in args.policies.split(",")
    ]
    others = {record["device"] for run in wanted if (record := _read(args.out, *run))} - {_device()}
    if others and not args.table:
        sys.exit(f"{args.out} holds runs on {', '.join(others)}; this is {_device()}: choose another --out.")
    deadline = time.monotonic() + 60 * args.minutes
    missing = [run for run in wanted if _num_left(args, run)]
    if not args.table:
        for (part, mode, _, first), group in groupby(missing, key=lambda run: _engine(args, run)):
            policies = [policy for _, _, policy in group]
            left_s = deadline - time.monotonic()
            if left_s < max(_expected_s(args.out, part, len(policies)), _LEAST_S):
                break
            _run(args, flags, part, mode, policies, first, left_s / 60)
    missing = [run for run in wanted if _num_left(args, run)]
    print(_table([record for run in wanted if (record := _read(args.out, *run))]))
    if missing:
        print(f"{len(missing)} of {len(wanted)} are missing or have runs missing: call again to go on.")
    return 1 if missing else 0


def _result(out: Path, part: str, mode: str, policy: str) -> Path:
    return out / f"{part}.{mode}.{policy}.json"


@cache
def _device() -> str:
    """The name of the first GPU, else "cpu"; asked of the driver, which leaves no context on the device."""
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()


def _num_left(args: argparse.Namespace, run: tuple[str, str, str]) -> int:
    """Shuffles that have not run yet; none of what failed."""
    record = _read(args.out, *run)
    return 0 if "error" in record else max(args.shuffles - len(record.get("runs", [])), 0)


def _engine(args: argparse.Namespace, run: tuple[str, str, str]) -> tuple[str, str, str, int]:
    """Runs that follow each other share an engine if all of this is equal; ends with the next shuffle."""
    part, mode, policy = run
    return part, mode, policy.partition("@")[0], args.shuffles - _num_left(args, run)


def _expected_s(out: Path, part: str, num_policies: int) -> float:
    """Seconds to start an engine and run one shuffle, by the slowest of this part so far; 0 without any."""
    seconds = [0.0]
    for path in out.glob(f"{part}.*.json"):
        record = json.loads(path.read_bytes())
        seconds += [record["start_s"] + num_policies * run["wall_s"] for run in record.get("runs", [])]
    return max(seconds)


def _run(
    args: argparse.Namespace,
    flags: list[str],
    part: str,
    mode: str,
    policies: list[str],
    first_shuffle: int,
    minutes: float,
) -> None:
    file = args.file or args.out / f"{part}.jsonl"
    if args.file is None:
        if not file.exists():
            write_part(file, part, args.scale, args.model)
        model = ["--model-path", random_model_path(args.model), "--served-model-name", args.model]
        fixed = ["--load-format", "dummy", "--max-total-tokens", "300000"]
        flags = [*model, *fixed, "--cuda-graph-bs-decode", *_GRAPH_SIZES.split(), *flags]
    command = [
        sys.executable, "-m", "sglang_blend", "bench", "--file", str(file),
        "--policies", ",".join(policies), "--warm-up", str(_WARM_UP), "--minutes", f"{minutes:.2f}",
        "--shuffles", str(args.shuffles), "--first-shuffle", str(first_shuffle),
        "--overlap", mode, "--json", *flags,
    ]  # fmt: skip
    print(f"{part}, {mode}, {' and '.join(policies)}", file=sys.stderr, flush=True)
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    seconds = time.monotonic() - start
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"runs": []}
    start_s = round(seconds - sum(run["wall_s"] for run in found["runs"]), 1)
    for policy in policies:
        record = {"device": _device(), "part": part, "mode": mode, "policy": policy, "flags": flags}
        record = _merged(_read(args.out, part, mode, policy), record | {"start_s": start_s}, found)
        if done.returncode:
            record["error"] = f"exit code {done.returncode}; the engine's words are above"
        result = _result(args.out, part, mode, policy)
        partial = result.with_suffix(".tmp")
        partial.write_text(json.dumps(record, indent=1))
        partial.rename(result)


def _merged(earlier: dict[str, Any], record: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What earlier calls measured of a configuration, and the runs of this one, which may be none."""
    merged = earlier | record
    merged["runs"] = earlier.get("runs", []) + [r for r in found["runs"] if r["policy"] == record["policy"]]
    if found["runs"]:
        merged["tree_minimum_prompt_tokens"] = found["tree_minimum_prompt_tokens"]
    if any(run["failed"] for run in merged["runs"]):
        merged["error"] = "some requests failed: what was measured is another job"
    return merged


def _read(out: Path, part: str, mode: str, policy: str) -> dict[str, Any]:
    """What is known of a configuration; empty if it has not been run."""
    path = _result(out, part, mode, policy)
    record: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return record


def _table(records: list[dict[str, Any]]) -> str:
    """One line a configuration: medians over the shuffles, beside the best stock one of the part."""
    walls = {
        (r["part"], r["mode"], r["policy"]): median(run["wall_s"] for run in r["runs"])
        for r in records
        if r["runs"]
    }
    titles = (
        "part", "overlap", "policy", "runs", "wall s", "best stock", "fcfs, lpm", "of optimum", "predicted",
        "of minimum", "batch", "retracted",
    )  # fmt: skip
    lines = ["".join(f"{title:>12}" for title in titles)]
    for r in records:
        key = (r["part"], r["mode"], r["policy"])
        if "error" in r:
            lines.append("".join(f"{cell:>12}" for cell in key) + f"  {r['error']}")
        if not r["runs"]:
            continue
        stock = {
            policy: wall
            for (part, mode, policy), wall in sorted(walls.items(), key=lambda item: -item[1])
            if part == r["part"] and mode != "pdmux" and policy not in ("dual-scan", "stationary")
        }  # of each policy the faster mode: it comes last
        shuffled = [stock[policy] for policy in ("fcfs", "lpm") if policy in stock]
        runs, minimum = r["runs"], max(r["tree_minimum_prompt_tokens"], 1)
        predicted = [run["predicted_s"] / run["wall_s"] for run in runs if run["predicted_s"]]
        optimum = [run["optimum_s"] / run["wall_s"] for run in runs if run["optimum_s"]]
        cells = (
            *key,
            f"{len(runs)}",
            f"{walls[key]:.1f}",
            f"{min(stock.values()) / walls[key]:.2f} x" if stock else "-",
            f"{min(shuffled) / walls[key]:.2f} x" if shuffled else "-",
            f"{mean(optimum):.0%}" if optimum else "-",
            f"{mean(predicted):.2f}" if predicted else "-",
            f"{mean(run['computed_prompt_tokens'] for run in runs) / minimum:.3f}",
            f"{mean(run['mean_batch'] for run in runs):.0f}",
            f"{mean(run['retractions'] for run in runs):.1f}",
        )
        lines.append("".join(f"{cell:>12}" for cell in cells))
    lines.append("best stock: how many times as fast as the fastest stock policy and order without pdmux;")
    lines.append("fcfs, lpm: as the faster of these two on the shuffled file;")
    lines.append("of optimum: the larger of compute and KV reads, by calibrated rates, over the time taken.")
    lines.append("predicted: simulated makespan over the measured one.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
