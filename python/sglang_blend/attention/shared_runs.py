"""The result of grouping: runs of KV that several requests of a batch read together.

    request 0   [ run of level 0 ][ run of level 1 ][ private ]
    request 1   [ run of level 0 ][ run of level 1 ][ private ]
    request 2   [ run of level 0 ][      private       ]
    request 3   [     private      ]

Every token of a request is in exactly one part, so attention over the parts, merged by log-sum-exp, is
attention over the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
SlotArray = NDArray[np.integer[Any]]


class SharedRun(NamedTuple):
    """KV that several requests read together.

    Attributes:
        start, end: which tokens of its readers, [start, end).
        slots: (end - start,) integer, where their KV is.
        readers: (g,) int64, positions in the batch, ascending; at least 2.
        level: runs that the same requests read before this one.
    """

    start: int
    end: int
    slots: SlotArray
    readers: IntArray
    level: int

    @property
    def saved_tokens(self) -> int:
        """KV tokens a step reads less than if every reader read them."""
        return (self.end - self.start) * (len(self.readers) - 1)


@dataclass(frozen=True)
class SharedRuns:
    """What a batch shares.

    Attributes:
        runs: by level, then by first reader; the readers of one level are all different.
        private_start: (bs,) int64, the first token that each request reads alone.
    """

    runs: tuple[SharedRun, ...]
    private_start: IntArray

    @cached_property
    def saved_tokens(self) -> int:
        """KV tokens a step reads less than without sharing."""
        return sum(run.saved_tokens for run in self.runs)

    @cached_property
    def num_readers(self) -> int:
        """Readers of all runs; a request counts once a level."""
        return sum(len(run.readers) for run in self.runs)

    @cached_property
    def most_readers(self) -> int:
        """Readers of the largest group."""
        return max((len(run.readers) for run in self.runs), default=0)

    def levels(self) -> list[list[SharedRun]]:
        """The runs of each level."""
        levels: list[list[SharedRun]] = []
        for run in self.runs:
            if run.level == len(levels):
                levels.append([])
            levels[run.level].append(run)
        return levels


def in_order(runs: Sequence[SharedRun], batch_size: int) -> SharedRuns:
    """Sort runs, and find where each request's private part begins."""
    ordered = tuple(sorted(runs, key=lambda run: (run.level, int(run.readers[0]))))
    private_start = np.zeros(batch_size, np.int64)
    for run in ordered:
        private_start[run.readers] = run.end  # deeper levels come later
    return SharedRuns(ordered, private_start)
