"""Which side of the plan goes next, from the memory that each side really holds.

The planner merged the two scanners against a modelled clock. At run time outputs are shorter or longer than
expected, so the merge is done again, here, with the accounts of the running requests: M_L and M_R follow
from the densities at the two heads and the density of what is left, and each scanner fills its part. So the
running batch is steered to the density of the rest.

The memory-intensive side goes first while its part has room: it is what keeps decode busy, while
compute-intensive requests leave soon after their prefill and always have room. Taking turns by the used share
of each part lets those few set the pace: beside a prefill that never ends (PD-multiplexing) the pool is then
about half as full, simulated.

`SideAccounts` keeps what each side holds, `SideBalance` merges the two lines for one pass.

Source: BlendServe, arXiv:2411.16102, section 5.3; the division is `core.memory_split`. A left-side request
whose output outruns its estimate moves its account to the right.
"""

from __future__ import annotations

from sglang_blend.core.dual_scanner import account_side
from sglang_blend.core.memory_split import MemorySplit, memory_split
from sglang_blend.core.request import Side
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.scheduling.request_state import RequestState
from sglang_blend.scheduling.running import RunningRequests

# The accounts are summed up anew after so many passes.
_PASSES_PER_COUNT = 16


class SideAccounts:
    """KV tokens of each side, every running request counted as long as it is expected to become.

    Attributes:
        used: by side, tokens; a prefix that several requests share counts for each of them.
        density: compute over memory time of all that runs; None without a cost model, or where nothing runs.
    """

    def __init__(self, cost: RooflineCost | None) -> None:
        """Start with empty accounts."""
        self._cost = cost
        self._until_count = 0
        self.used = {Side.LEFT: 0.0, Side.RIGHT: 0.0}
        self.density: float | None = None

    def enter(self, running: RequestState) -> None:
        """A request was admitted."""
        running.accounted = running.peak_tokens
        self.used[running.account] += running.accounted

    def leave(self, running: RequestState) -> None:
        """A request has finished, or was retracted."""
        self.used[running.account] -= running.accounted

    def count(self, running: RunningRequests) -> int:
        """Sum up anew what runs, once in several passes; returns how many requests changed sides."""
        self._until_count -= 1
        if self._until_count > 0:
            return 0
        self._until_count = _PASSES_PER_COUNT
        running.observe()
        self.used = {Side.LEFT: 0.0, Side.RIGHT: 0.0}
        num_relocated = 0
        prompt_tokens = output_tokens = token_steps = 0.0
        for request in running:
            generated, mean = request.num_generated, request.mean_len
            if request.side == Side.LEFT and account_side(Side.LEFT, mean, generated) != Side.LEFT:
                request.side = Side.RIGHT
                num_relocated += 1
            request.accounted = request.prompt_len + max(mean, generated)
            self.used[request.account] += request.accounted
            prompt_tokens += request.extend_len
            output_tokens += mean
            token_steps += mean * (request.prompt_len + mean / 2)
        self.density = None
        if self._cost is not None and token_steps:
            compute_s = prompt_tokens * self._cost.token_s + output_tokens * self._cost.decode_token_s
            self.density = compute_s / (token_steps * sum(self._cost.kv_read_s))
        return num_relocated


class SideBalance:
    """The accounts of one scheduling pass: tokens that each side holds at its expected peak."""

    def __init__(self, mem_tokens: int) -> None:
        """Start with empty accounts.

        Args:
            mem_tokens: M, tokens of the KV pool.
        """
        self._mem = mem_tokens
        self.used = {Side.NONE: 0.0, Side.LEFT: 0.0, Side.RIGHT: 0.0}
        self._split_of: tuple[float, float, float] | None = None
        self._split = MemorySplit(0.0, 0.0)

    def split(self, left: RequestState, right: RequestState) -> MemorySplit:
        """M_L and M_R for the requests at the two heads; the rest is what the earlier of them counts."""
        rest = left.root_density if left.key < right.key else right.root_density
        densities = (left.density, right.density, rest)
        if densities != self._split_of:  # neighbours in a plan often have equal ones
            self._split_of, self._split = densities, memory_split(*densities, self._mem)
        return self._split

    def next_side(self, left: RequestState | None, right: RequestState | None) -> Side:
        """The side whose head goes next; NONE when both are exhausted.

        Whoever is on no side runs in its place of the plan, after all that stands before it there: its prefix
        leaves no room for another one. Where neither fits its part, the side that uses less of it goes on: a
        full batch beats a balanced one.

        Args:
            left, right: the heads; None where a side is exhausted.
        """
        if left is None or right is None:
            return Side.LEFT if left is not None else Side.RIGHT if right is not None else Side.NONE
        if left.side == Side.NONE:
            return Side.LEFT if left.key < right.key else Side.RIGHT
        mem_left, mem_right = self.split(left, right)
        used_left, used_right = self.used[Side.LEFT], self.used[Side.RIGHT]
        if used_right + right.peak_tokens <= mem_right:
            return Side.RIGHT
        if used_left + left.peak_tokens <= mem_left:
            return Side.LEFT
        left_first = used_left * max(mem_right, 1.0) <= used_right * max(mem_left, 1.0)
        return Side.LEFT if left_first else Side.RIGHT
