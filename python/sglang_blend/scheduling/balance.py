"""Which side of the plan goes next, from the memory that each side really holds.

The planner merged the two scanners against a modelled clock. At run time outputs are shorter or longer than
expected, so the merge is done again, here, with the accounts of the running requests: M_L and M_R follow
from the densities at the two heads and the density of what is left, and the side that uses less of its part
goes next. So the running batch is steered to the density of the rest.

Source: BlendServe, arXiv:2411.16102, section 5.3; the division is `core.dual_scanner.memory_split`.
"""

from __future__ import annotations

from sglang_blend.core.dual_scanner import MemorySplit, memory_split
from sglang_blend.core.request import Side
from sglang_blend.scheduling.waiting import Waiting


class SideBalance:
    """The accounts of one scheduling pass: tokens that each side holds at its expected peak."""

    def __init__(self, mem_tokens: int, *, hold_back: bool) -> None:
        """Start with empty accounts.

        Args:
            mem_tokens: M, tokens of the KV pool.
            hold_back: leave memory free rather than let a side exceed its part. Worth it where compute and
                memory-bound work overlap in a step; where operators run one after the other, a full batch
                beats a balanced one.
        """
        self._mem = mem_tokens
        self._hold_back = hold_back
        self.used = {Side.NONE: 0.0, Side.LEFT: 0.0, Side.RIGHT: 0.0}
        self._split_of: tuple[float, float, float] | None = None
        self._split = MemorySplit(0.0, 0.0)

    def split(self, left: Waiting, right: Waiting) -> MemorySplit:
        """M_L and M_R for the requests at the two heads; the rest is what the earlier of them counts."""
        rest = left.root_density if left.key < right.key else right.root_density
        densities = (left.density, right.density, rest)
        if densities != self._split_of:  # neighbours in a plan often have equal ones
            self._split_of, self._split = densities, memory_split(*densities, self._mem)
        return self._split

    def next_side(self, left: Waiting | None, right: Waiting | None) -> Side:
        """The side whose head goes next; NONE when both are exhausted or have to wait.

        Args:
            left, right: the heads; None where a side is exhausted.
        """
        if left is None or right is None:
            return Side.LEFT if left is not None else Side.RIGHT if right is not None else Side.NONE
        mem_left, mem_right = self.split(left, right)
        used_left, used_right = self.used[Side.LEFT], self.used[Side.RIGHT]
        left_first = used_left * max(mem_right, 1.0) <= used_right * max(mem_left, 1.0)
        if not self._hold_back:
            return Side.LEFT if left_first else Side.RIGHT
        # A side that runs nothing may take one request whatever its part, or it could never start.
        left_fits = used_left == 0 or used_left + left.peak_tokens <= mem_left
        right_fits = used_right == 0 or used_right + right.peak_tokens <= mem_right
        if left_fits and (left_first or not right_fits):
            return Side.LEFT
        return Side.RIGHT if right_fits else Side.NONE
