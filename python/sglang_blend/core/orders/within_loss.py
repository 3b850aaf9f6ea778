"""Makes an order that trades sharing for balance keep its word: it loses at most `sharing_loss`.

The paper keeps 99% of the possible sharing. Where nearly everything is shared, 1% of the sharing is many
times 1% of what has to be computed, so the loss is held to the same part of either; and deep in a prompt a
token takes longer, so it is held in seconds too (`worth_blending`).
"""

from __future__ import annotations

from collections.abc import Callable

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders.baselines import not_blended
from sglang_blend.core.orders.placement import Placement
from sglang_blend.core.orders.worth_blending import most_recomputed, recomputed
from sglang_blend.core.workload import Workload

_HALVINGS = 5


def within_loss(workload: Workload, config: PlanConfig, place: Callable[[float], Placement]) -> Placement:
    """Place with the whole budget, with half of it while the order keeps too little, and with none at last.

    Args:
        place: makes a placement that is expected to compute at most this many shared tokens again; with 0 it
            must keep all sharing, as far as the pool can hold it.

    Returns:
        The first placement that computes no more again than a blend may; the order of `dfs` where none does.
    """
    most = most_recomputed(workload, config)
    for budget in (*(most.tokens / 2**halving for halving in range(_HALVINGS + 1)), 0.0):
        placement = place(budget)
        again = recomputed(workload, placement)
        # The last digits are those of sums in another order.
        few_enough = again.tokens <= most.tokens + 1e-6
        if few_enough and again.seconds <= most.seconds + 1e-9 * workload.total.compute_s:
            return placement
    lost = again.seconds / workload.total.compute_s
    return not_blended(workload, f"prefixes left and entered again would cost {lost:.1%} of the compute time")
