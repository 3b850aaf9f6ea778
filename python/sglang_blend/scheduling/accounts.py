"""What the requests that run hold on each side of the plan, and how dense they are together.

Source: BlendServe, arXiv:2411.16102, section 5.3: a left-side request whose output outruns its estimate
moves its account to the right.
"""

from __future__ import annotations

from collections.abc import Iterable

from sglang_blend.core.dual_scanner import account_side
from sglang_blend.core.request import Side
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.scheduling.waiting import Waiting

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

    def enter(self, running: Waiting) -> None:
        """A request was admitted."""
        running.accounted = running.peak_tokens
        self.used[running.account] += running.accounted

    def leave(self, running: Waiting) -> None:
        """A request has finished, or was retracted."""
        self.used[running.account] -= running.accounted

    def count(self, running: Iterable[Waiting]) -> int:
        """Sum up anew what runs, once in several passes; returns how many requests changed sides."""
        self._until_count -= 1
        if self._until_count > 0:
            return 0
        self._until_count = _PASSES_PER_COUNT
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
