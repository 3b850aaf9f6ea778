"""What finding shared prefixes costs per decode step: pure numpy, no engine.

    OMP_NUM_THREADS=1 python scripts/bench_grouping.py --requests 512

A running batch of requests in groups (a prefix of two levels, a private prompt); each step some requests end
and as many of the same groups take their rows. As in SGLang those that go on move up and newcomers are put
at the end, so most requests change their position. Timed is what the backend would call in a step: after a
prefill `on_prefill`, then `update`, which fetches the rows of newcomers. Prints one JSON object, milliseconds
a step.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from sglang_blend.attention.decode_groups import DecodeGroups
from sglang_blend.cost.break_even import BreakEven

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.naive_groups import naive_groups


class _Batch:
    """Rows of slots as the radix cache would hand them out."""

    def __init__(
        self, num_requests: int, num_groups: int, num_stems: int, shared_len: int, private_len: int
    ) -> None:
        self._rng = np.random.default_rng(0)
        self._groups, self._shared, self._private = num_groups, shared_len, private_len
        self._next = 1
        halves = [self._slots(shared_len // 2) for _ in range(num_stems)]
        self._prefixes = [
            np.concatenate([halves[g % len(halves)], self._slots(shared_len - shared_len // 2)])
            for g in range(num_groups)
        ]
        self.slots = [self._newcomer(row % num_groups) for row in range(num_requests)]  # by row
        self.rows = np.arange(num_requests)  # in the order of the batch

    def _slots(self, count: int) -> np.ndarray:
        self._next += count
        return np.arange(self._next - count, self._next, dtype=np.int32)

    def _newcomer(self, group: int) -> np.ndarray:
        return np.concatenate([self._prefixes[group], self._slots(self._private)])

    def decode(self) -> None:
        """Every request has one token more."""
        self.slots = [np.append(of_row, self._slots(1)) for of_row in self.slots]

    def lens(self) -> np.ndarray:
        """(requests,) int64, tokens of each request, in the order of the batch."""
        return np.array([len(self.slots[row]) for row in self.rows.tolist()])

    def replace(self, count: int) -> np.ndarray:
        """Rows whose request ended and was followed by another of its group."""
        rows = self._rng.choice(len(self.slots), count, replace=False)
        for row in rows.tolist():
            self.slots[row] = self._newcomer(row % self._groups)
        self.rows = np.append(self.rows[~np.isin(self.rows, rows)], rows)
        return rows


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--groups", type=int, default=60)
    parser.add_argument("--stems", type=int, default=15, help="first halves of the groups' prefixes")
    parser.add_argument("--shared", type=int, default=1000)
    parser.add_argument("--private", type=int, default=200)
    parser.add_argument("--replaced", type=int, default=2, help="requests that end in a step, where any do")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    batch = _Batch(args.requests, args.groups, args.stems, args.shared, args.private)
    break_even = BreakEven(group_tokens=256, reader_tokens=4)
    groups = DecodeGroups(break_even)

    def step(prefilled: np.ndarray | None = None) -> float:
        batch.decode()
        rows, lens = batch.rows, batch.lens()
        start = time.thread_time()
        if prefilled is not None:
            groups.on_prefill(prefilled)
        groups.update(rows, lens, lambda at: [batch.slots[row][:-1].copy() for row in rows[at].tolist()])
        return 1e3 * (time.thread_time() - start)

    all_join = step()
    unchanged = [step() for _ in range(args.steps)]
    changed = [step(batch.replace(args.replaced)) for _ in range(args.steps)]
    found = groups.update(batch.rows, batch.lens() + 1, lambda at: [])
    start = time.thread_time()
    naive = naive_groups([s[: args.shared] for s in batch.slots], break_even)
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
