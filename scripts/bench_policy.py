"""What the schedule policy costs per step when thousands of requests wait.

    python scripts/bench_policy.py --lines 20000 --window 4000

Runs a made-up file (groups of 40 requests that share 200 tokens) on a tiny random model, planned (hints) and
unplanned (the policy plans its own queue), and prints milliseconds per step and the memory of the job.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import orjson

from sglang_blend.random_model import random_model_path

_GROUP, _SHARED, _VOCABULARY = 40, 200, 40_000


def write_lines(path: Path, num_lines: int, seed: int = 0) -> None:
    """Completions lines of token ids; outputs of 1 to 48 tokens."""
    rng = np.random.default_rng(seed)
    prefixes = rng.integers(100, _VOCABULARY, ((num_lines + _GROUP - 1) // _GROUP, _SHARED))
    with path.open("wb") as file:
        for i in rng.permutation(num_lines).tolist():
            own = rng.integers(100, _VOCABULARY, rng.integers(10, 60))
            body = {
                "model": "tiny",
                "prompt": [*prefixes[i // _GROUP].tolist(), *own.tolist()],
                "max_tokens": int(rng.integers(1, 48)),
                "ignore_eos": i % 2 == 0,
                "temperature": 0,
            }
            line = {"custom_id": f"r{i:07d}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(orjson.dumps(line) + b"\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=4_000, help="requests with the engine at a time")
    parser.add_argument("--policies", default="dual-scan,dual-scan@unplanned,fcfs")
    parser.add_argument("--max-total-tokens", type=int, default=20_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "lines.jsonl"
        write_lines(path, args.lines)
        command = [
            sys.executable, "-m", "sglang_blend", "bench", "--file", path, "--window", args.window,
            "--policies", args.policies, "--model-path", random_model_path("tiny"), "--load-format", "dummy",
            "--max-total-tokens", args.max_total_tokens, "--max-running-requests", 256,
        ]  # fmt: skip
        return subprocess.run([str(part) for part in command], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
