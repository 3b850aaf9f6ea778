"""The dual scanner: admits from both ends of a density-sorted list to balance compute and KV memory.

    scanner = DualScanner(items, mem_tokens=M, min_left_requests=2)
    side = scanner.next_side()          # Side.NONE: nothing fits now
    item = scanner.admit(side)
    scanner.advance(1)                  # a decode step has passed
    scanner.release(item)               # it finished, early or not: its memory is free for the next

The offline order drives it with a modelled clock; at run time `scheduling.balance` merges the two sides
again. The left scanner walks from the compute-intensive end, the right one from the memory-intensive end, and
the KV memory is divided so that the mix has the density of what is left (`memory_split`).

Source: BlendServe, arXiv:2411.16102, section 5.3, Algorithm 3. What the paper leaves open is decided here:

- rho(root) is the density of what has not been admitted yet, which lies between the ends of a sorted list;
  the paper keeps it constant.
- Floor: a side that runs nothing may take one item, and room for one item or `min_left_requests` whole
  requests (but no more than half the pool) is always kept for the left side, or it could never run.
- Pace: with short outputs the left part is smaller than one request, and the right side never fills its part,
  as it is held to its peak while it grows. So memory alone would let the left side run too fast and end too
  early. For every step that passes it earns `M_L / M_R` of the tokens that the right side really holds, it
  pays the token-steps of what it admits, and admits only when it is not in debt.
- A side is exhausted when the two pointers meet: the last item belongs to either end and nothing is left to
  divide. What is still running keeps its account until it is released.
- The left part is reserved against the right side's peak, not against its current use: right requests grow,
  and would otherwise starve the left side when they age.
- Both sides have room: the one that uses less of its part admits. Nothing runs and nothing fits: admit
  anyway, because waiting would never end.
- An output length of 0 occupies memory for one step.
- Relocation, at run time (`account_side`): a left request that has generated twice its estimate, and more
  than 32 tokens, counts as right.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sglang_blend.core.cost_model import FloatArray
from sglang_blend.core.memory_split import MemorySplit, memory_split
from sglang_blend.core.request import Side

RELOCATE_FACTOR = 2.0
RELOCATE_LEAST_TOKENS = 32


def account_side(side: Side, est_output_len: float, num_generated: float) -> Side:
    """The side whose memory a running request counts against; a left one that ran far over becomes right."""
    far_over = num_generated > max(RELOCATE_FACTOR * est_output_len, RELOCATE_LEAST_TOKENS)
    return Side.RIGHT if side == Side.LEFT and far_over else side


class ScanItems(NamedTuple):
    """What is scanned, sorted by falling density; requests, units, or blocks of neighbouring units.

    Attributes:
        compute_s, memory_s: (k,) float64, load of each item.
        peak_tokens: (k,) float64, KV tokens an item holds at most, prompt and expected output.
        request_tokens: (k,) float64, the largest request in the item, tokens.
        token_steps: (k,) float64, KV tokens held times decode steps.
        num_steps: (k,) float64, decode steps an item is expected to stay, above 0.
    """

    compute_s: FloatArray
    memory_s: FloatArray
    peak_tokens: FloatArray
    request_tokens: FloatArray
    token_steps: FloatArray
    num_steps: FloatArray


class DualScanner:
    """Two pointers over `ScanItems` and the memory that each side uses.

    `admit` moves a pointer and adds to its side's account; `release` changes the account only.
    """

    def __init__(self, items: ScanItems, *, mem_tokens: float, min_left_requests: int) -> None:
        """Start with both pointers outside.

        Args:
            mem_tokens: M, tokens of the KV pool.
            min_left_requests: whole requests the left side always has room for.
        """
        density = np.divide(
            items.compute_s,
            items.memory_s,
            out=np.full(len(items.memory_s), np.inf),
            where=items.memory_s > 0,
        )
        # Plain lists: an admission reads single numbers, which arrays are slow at.
        self._density: list[float] = density.tolist()
        self._peak: list[float] = items.peak_tokens.tolist()
        self._least: list[float] = (items.request_tokens * min_left_requests).tolist()
        self._compute_upto: list[float] = np.append(0.0, np.cumsum(items.compute_s)).tolist()
        self._memory_upto: list[float] = np.append(0.0, np.cumsum(items.memory_s)).tolist()
        self._mem = float(mem_tokens)
        self._left, self._right = 0, len(density) - 1
        self._token_steps: list[float] = items.token_steps.tolist()
        self._num_steps: list[float] = items.num_steps.tolist()
        self._credit = 0.0  # token-steps that the left side may still admit
        self._rate = 0.0  # mean tokens that the right side holds
        self._account: dict[int, Side] = {}
        self._used = {Side.LEFT: 0.0, Side.RIGHT: 0.0}
        self._split: MemorySplit | None = None

    @property
    def num_waiting(self) -> int:
        """Items that have not been admitted."""
        return self._right - self._left + 1

    def remaining_density(self) -> float:
        """rho(root): of the items not admitted yet."""
        memory = self._memory_upto[self._right + 1] - self._memory_upto[self._left]
        compute = self._compute_upto[self._right + 1] - self._compute_upto[self._left]
        return compute / memory if memory > 0 else math.inf

    def split(self) -> MemorySplit:
        """M_L and M_R for the two items that the pointers stand on.

        Nothing may be waiting only if the caller does not ask.
        """
        if self._split is None:
            assert self.num_waiting > 0, "the scanners have met"
            self._split = memory_split(
                self._density[self._left], self._density[self._right], self.remaining_density(), self._mem
            )
        return self._split

    def next_side(self) -> Side:
        """The side that may admit its next item now, NONE if both have to wait."""
        if self.num_waiting == 0:
            return Side.NONE
        mem_left, mem_right = self.split()
        used_left, used_right = self._used[Side.LEFT], self._used[Side.RIGHT]
        free = self._mem - used_left - used_right
        need_left, need_right = self._peak[self._left], self._peak[self._right]
        floor = max(mem_left, min(max(self._least[self._left], need_left), self._mem / 2))
        left_fits = (
            self._credit >= 0 and need_left <= free and (used_left == 0 or used_left + need_left <= floor)
        )
        right_fits = need_right <= free and (
            used_right + need_right <= self._mem - floor or (used_right == 0 and mem_right > 0)
        )
        if left_fits and right_fits:
            left_first = used_left * max(mem_right, 1.0) <= used_right * max(mem_left, 1.0)
            return Side.LEFT if left_first else Side.RIGHT
        if left_fits:
            return Side.LEFT
        if right_fits:
            return Side.RIGHT
        if self._account:
            return Side.NONE
        return Side.LEFT if mem_left >= mem_right else Side.RIGHT

    def advance(self, num_steps: float) -> None:
        """So many decode steps have passed; the left side has earned its part of them."""
        if self.num_waiting == 0:
            return
        mem_left, mem_right = self.split()
        right_tokens = self._rate if self._rate > 0 else mem_right
        earned = mem_left * (right_tokens / mem_right if mem_right > 0 else 1.0) * num_steps
        # No more than a step of the whole pool is saved up.
        self._credit = min(self._credit + earned, self._mem)

    def admit(self, side: Side) -> int:
        """Take the next item of a side; returns its index."""
        assert self.num_waiting > 0, "the scanners have met"
        item = self._left if side == Side.LEFT else self._right
        if side == Side.LEFT:
            self._left += 1
        else:
            self._right -= 1
        self._account[item] = side
        self._used[side] += self._peak[item]
        if side == Side.LEFT:
            self._credit -= self._token_steps[item]
        else:
            self._rate += self._token_steps[item] / self._num_steps[item]
        self._split = None
        return item

    def release(self, item: int) -> None:
        """An item has finished; its memory is free for whichever side is next."""
        self._used[self._account.pop(item)] -= self._peak[item]
        if item > self._right:
            self._rate = max(self._rate - self._token_steps[item] / self._num_steps[item], 0.0)

    def check_integrity(self) -> None:
        """The accounts add up to what is running.

        Raises:
            AssertionError: they do not, which is a bug of the caller or of this class.
        """
        for side in (Side.LEFT, Side.RIGHT):
            held = sum(self._peak[item] for item, of in self._account.items() if of == side)
            assert math.isclose(held, self._used[side], rel_tol=1e-6, abs_tol=1e-3), (side, held, self._used)
