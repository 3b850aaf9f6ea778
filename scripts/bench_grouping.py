"""What finding shared prefixes costs per decode step: pure numpy, no engine.

    OMP_NUM_THREADS=1 python scripts/bench_grouping.py --requests 512

A running batch of requests in groups (a prefix of two levels, a private prompt); each step some requests end
and as many of the same groups take their rows. Prints one JSON object, milliseconds a step.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from sglang_blend.attention.break_even import BreakEven
from sglang_blend.attention.decode_groups import DecodeGroups
from sglang_blend.attention.naive_groups import naive_groups


class _Batch:
    """Rows of slots as the radix cache would hand them out."""

    def __init__(self, num_requests: int, num_groups: int, shared_len: int, private_len: int) -> None:
        self._rng = np.random.default_rng(0)
        self._groups, self._shared, self._private = num_groups, shared_len, private_len
        self._next = 1
        halves = [self._slots(shared_len // 2) for _ in range(max(num_groups // 4, 1))]
        self._prefixes = [
            np.concatenate([halves[g % len(halves)], self._slots(shared_len - shared_len // 2)])
            for g in range(num_groups)
        ]
        self.slots = [self._newcomer(i % num_groups) for i in range(num_requests)]

    def _slots(self, count: int) -> np.ndarray:
        self._next += count
        return np.arange(self._next - count, self._next, dtype=np.int32)

    def _newcomer(self, group: int) -> np.ndarray:
        return np.concatenate([self._prefixes[group], self._slots(self._private)])

    def decode(self) -> None:
        """Every request has one token more."""
        self.slots = [np.append(of_request, self._slots(1)) for of_request in self.slots]

    def replace(self, count: int) -> np.ndarray:
        """Rows whose request ended and was followed by another of its group."""
        rows = self._rng.choice(len(self.slots), count, replace=False)
        for row in rows.tolist():
            self.slots[row] = self._newcomer(row % self._groups)
        return rows


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--groups", type=int, default=60)
    parser.add_argument("--shared", type=int, default=1000)
    parser.add_argument("--private", type=int, default=200)
    parser.add_argument("--replaced", type=int, default=2, help="requests that end in a step, where any do")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    batch = _Batch(args.requests, args.groups, args.shared, args.private)
    break_even = BreakEven(group_tokens=256, reader_tokens=4)
    groups = DecodeGroups(break_even)
    rows = np.arange(args.requests)

    def step() -> float:
        batch.decode()
        lens = np.array([len(s) for s in batch.slots])
        start = time.thread_time()
        groups.update(rows, lens, lambda at: [batch.slots[i][:-1].copy() for i in at])
        return 1e3 * (time.thread_time() - start)

    all_join = step()
    unchanged = [step() for _ in range(args.steps)]
    changed = []
    for _ in range(args.steps):
        groups.on_prefill(batch.replace(args.replaced))
        changed.append(step())
    found = groups.update(rows, np.array([len(s) + 1 for s in batch.slots]), lambda at: [])
    start = time.thread_time()
    naive = naive_groups(
        [s[: args.shared] for s in batch.slots], BreakEven(group_tokens=256, reader_tokens=4)
    )
    naive_ms = 1e3 * (time.thread_time() - start)
    assert naive.saved_tokens == found.saved_tokens, (naive.saved_tokens, found.saved_tokens)
    report = {
        "requests": args.requests,
        "runs": len(found.runs),
        "levels": len(found.levels()),
        "all_join_ms": all_join,
        "unchanged_ms": {"mean": float(np.mean(unchanged)), "p99": float(np.quantile(unchanged, 0.99))},
        f"{args.replaced}_replaced_ms": {
            "mean": float(np.mean(changed)),
            "p99": float(np.quantile(changed, 0.99)),
        },
        "obvious_grouping_ms": naive_ms,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
