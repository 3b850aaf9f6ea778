"""What a stock client pays for planning: latency of an SGLang server under each schedule policy.

    python scripts/bench_latency.py --policies fcfs,lpm,dual-scan --rate 3

Starts `sglang.launch_server` once per policy on the demo model and loads it with SGLang's own
`sglang.bench_serving` (requests that share prefixes, Poisson arrivals). Prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from sglang_blend.demo_model import demo_model_path

_COLUMNS = (
    ("done", "completed"),
    ("req/s", "request_throughput"),
    ("p50 s", "median_e2e_latency_ms"),
    ("p95 s", "p95_e2e_latency_ms"),
    ("p99 s", "p99_e2e_latency_ms"),
    ("ttft p50 s", "median_ttft_ms"),
    ("ttft p99 s", "p99_ttft_ms"),
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5)
            return
        except OSError:
            time.sleep(1)
    raise SystemExit(f"the server ended with exit code {server.returncode}; its words are above.")


def measure(policy: str, args: argparse.Namespace) -> dict[str, Any]:
    """One server, one load."""
    port = free_port()
    command = [
        sys.executable, "-m", "sglang.launch_server", "--model-path", str(demo_model_path()),
        "--port", str(port), "--schedule-policy", policy, "--max-total-tokens", str(args.max_total_tokens),
        "--log-level", "error", "--disable-overlap-schedule",
    ]  # fmt: skip
    server = subprocess.Popen(command, start_new_session=True)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", server)
        with tempfile.TemporaryDirectory() as tmp:
            found = Path(tmp) / "latency.jsonl"
            load = [
                sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang", "--port", str(port),
                "--dataset-name", "generated-shared-prefix", "--gsp-num-groups", str(args.groups),
                "--gsp-prompts-per-group", str(args.per_group), "--gsp-system-prompt-len", "200",
                "--gsp-question-len", "30", "--gsp-output-len", "24", "--request-rate", str(args.rate),
                "--seed", "1", "--output-file", str(found), "--disable-tqdm",
            ]  # fmt: skip
            subprocess.run(load, check=True, stdout=subprocess.DEVNULL)
            result: dict[str, Any] = json.loads(found.read_text().splitlines()[-1])
            return result
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--policies", default="fcfs,lpm,dual-scan")
    parser.add_argument("--rate", type=float, default=3.0, help="requests per second")
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--per-group", type=int, default=8)
    parser.add_argument("--max-total-tokens", type=int, default=4000)
    args = parser.parse_args()
    results = {policy: measure(policy, args) for policy in args.policies.split(",")}
    print(f"{'policy':12}" + "".join(f"{title:>12}" for title, _ in _COLUMNS))
    for policy, result in results.items():
        values = [result[key] / (1e3 if key.endswith("_ms") else 1) for _, key in _COLUMNS]
        print(f"{policy:12}" + "".join(f"{value:>12.2f}" for value in values))


if __name__ == "__main__":
    main()
