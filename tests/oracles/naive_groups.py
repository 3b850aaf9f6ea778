"""The obvious grouping: partition the batch token by token. For tests; `prefix_forest` must find the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sglang_blend.attention.shared_runs import SharedRun, SharedRuns, SlotArray, in_order
from sglang_blend.cost.break_even import BreakEven


def naive_groups(slots: Sequence[SlotArray], break_even: BreakEven) -> SharedRuns:
    """What requests share that begin with the same slots.

    A run ends where its readers part, or one of them ends. A run that does not pay is left to whoever reads
    on: those that still go together there get one more chance, with the longer run.

    Args:
        slots: for each request, where the KV of its tokens is.
    """
    runs: list[SharedRun] = []
    _split(slots, list(range(len(slots))), 0, 0, 0, break_even, runs)
    return in_order(runs, len(slots))


def _split(
    slots: Sequence[SlotArray],
    readers: list[int],
    at: int,
    start: int,
    level: int,
    break_even: BreakEven,
    runs: list[SharedRun],
) -> None:
    """Those of `readers` that agree at token `at`, whose tokens [start, at) nobody reads for them yet."""
    by_slot: dict[int, list[int]] = {}
    for reader in readers:
        if len(slots[reader]) > at:
            by_slot.setdefault(int(slots[reader][at]), []).append(reader)
    for group in by_slot.values():
        if len(group) < 2:
            continue
        end = at + 1
        while len({int(slots[r][end]) if len(slots[r]) > end else None for r in group}) == 1 and all(
            len(slots[r]) > end for r in group
        ):
            end += 1
        if break_even.pays(len(group), end - start):
            runs.append(
                SharedRun(start, end, slots[group[0]][start:end], np.array(group, dtype=np.int64), level)
            )
            _split(slots, group, end, end, level + 1, break_even, runs)
        else:
            _split(slots, group, end, start, level, break_even, runs)
