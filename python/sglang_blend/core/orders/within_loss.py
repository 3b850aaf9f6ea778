"""Makes an order that trades sharing for balance keep its word: it loses at most `sharing_loss`.

The paper keeps 99% of the possible sharing. Where nearly everything is shared, 1% of the sharing is many
times 1% of what has to be computed, so the loss is held to the same part of either.
"""

from __future__ import annotations

from collections.abc import Callable

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders.baselines import not_blended
from sglang_blend.core.orders.placement import Placement
from sglang_blend.core.orders.worth_blending import is_worth_it, recomputed_s
from sglang_blend.core.sharing import sharing_kept
from sglang_blend.core.workload import Workload

_HALVINGS = 5


def within_loss(workload: Workload, config: PlanConfig, place: Callable[[float], Placement]) -> Placement:
    """Place with the whole budget, and with half of it while the order keeps too little.

    Args:
        place: makes a placement that is expected to compute at most this many shared tokens again; with 0 it
            must keep all sharing that the pool can hold.

    Returns:
        The first placement that loses no more than `sharing_loss` of the possible sharing and of the tokens
        that must be computed in any case, measured, and no more time than a blend is worth, by the pool in
        hand. Where there is none the order of `dfs`.
    """
    tree = workload.tree
    budget = config.sharing_loss * min(tree.num_shared_tokens, tree.num_unique_tokens)
    for halving in range(_HALVINGS + 1):
        placement = place(budget / 2**halving)
        side = placement.side[tree.leaf_of_row]
        kept = sharing_kept(tree, tree.sequence[placement.leaves], side)
        if (1.0 - kept) * tree.num_shared_tokens <= budget + 1e-6 and is_worth_it(workload, placement):
            return placement
    placement = place(0.0)
    if is_worth_it(workload, placement):
        return placement
    lost = recomputed_s(workload, placement) / workload.total.compute_s
    return not_blended(workload, f"prefixes left and entered again would cost {lost:.1%} of the compute time")
