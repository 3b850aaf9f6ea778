"""What the pool in hand can keep of two paths, and orders that leave blending where it costs too much."""

import numpy as np
import pytest

from core.toy_cost import ToyCost
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import make_schedule, make_workload
from sglang_blend.core.prefix_tree import build_prefix_tree
from sglang_blend.core.request import RequestTable, Schedule, Side
from sglang_blend.core.sharing import Pool, sharing_kept


def documents(prefix_len: int, *, num: int = 20, per_document: int = 8) -> RequestTable:
    """Requests on long documents, half of these asked for one token, half for many."""
    rng = np.random.default_rng(3)
    prompts, caps = [], []
    for number in range(num):
        document = rng.integers(0, 9999, prefix_len).tolist()
        for _ in range(per_document):
            prompts.append([number, *document, *rng.integers(0, 9999, 50).tolist()])
            caps.append(1 if number % 2 else 400)
    return RequestTable.from_lists(prompts, max_new_tokens=caps, fixed_output=True)


def plan(table: RequestTable, pool_tokens: int) -> Schedule:
    return make_schedule(table, ToyCost(kv_pool_tokens=pool_tokens), PlanConfig(order="dual-scan"))


def alternating(table: RequestTable) -> tuple[np.ndarray, np.ndarray]:
    """The first documents on one side, the last on the other, in turn: an order of two paths, its sides."""
    rows = np.arange(table.n)
    left, right = rows[: table.n // 2], rows[table.n // 2 :]
    side = np.where(rows < table.n // 2, Side.LEFT, Side.RIGHT).astype(np.int8)
    return np.stack([left, right], axis=1).reshape(-1), side


@pytest.mark.parametrize("pool_tokens", [10**9, 40_000, 20_000, 9_000, 4_000, 2_000])
def test_a_smaller_pool_keeps_less_of_two_paths(pool_tokens: int) -> None:
    """All of both while they fit beside what runs; then less; a cache of any size is the limit."""
    table = documents(2000)
    tree = build_prefix_tree(table)
    sequence, side = alternating(table)
    unbounded = sharing_kept(tree, sequence, side)
    kept = [
        sharing_kept(tree, sequence, side, Pool(tokens, np.asarray(table.max_new_tokens)))
        for tokens in (2 * pool_tokens, pool_tokens)
    ]
    assert unbounded > 0.99
    assert kept[1] <= kept[0] <= unbounded
    assert (kept[1] == unbounded) == (pool_tokens >= 9_000)
    assert kept[1] > 0 or pool_tokens < 5_000


def test_paths_that_do_not_fit_side_by_side_are_not_blended() -> None:
    """Where every document is long against the pool the order is that of dfs, and the reason names both."""
    table = documents(2000)
    blended, left = plan(table, 40_000), plan(table, 8_000)
    assert blended.order == "dual-scan"
    assert (blended.side != Side.NONE).all()
    assert left.order == "dfs"
    assert "prefixes of up to 2001 tokens do not fit into a KV pool of 8000 tokens" in left.reason
    plain = make_schedule(table, None, PlanConfig(order="dfs"))
    assert (left.rank == plain.rank).all()


def test_one_long_document_does_not_keep_the_others_from_being_blended() -> None:
    """It runs first, depth-first and on no side; the rest is scanned from both ends."""
    rng = np.random.default_rng(5)
    base = documents(2000)
    prompts = [base.prompt(row).tolist() for row in range(base.n)]
    long = [[77, *rng.integers(0, 9999, 8000).tolist()]] * 3
    caps = [*np.asarray(base.max_new_tokens).tolist(), 1, 1, 1]
    table = RequestTable.from_lists([*prompts, *long], max_new_tokens=caps, fixed_output=True)
    schedule = plan(table, 40_000)
    assert schedule.order == "dual-scan"
    assert schedule.sequence[:3].tolist() == [base.n, base.n + 1, base.n + 2]
    assert (schedule.side[base.n :] == Side.NONE).all()
    assert (schedule.side[: base.n] != Side.NONE).all()
    assert schedule.reason.startswith("3 of 163 requests run first, not blended: ")


def test_an_order_gives_way_to_dfs_unless_it_is_predicted_to_be_faster() -> None:
    """With known lengths by half a percent; with unknown ones a prediction must promise more."""
    table = documents(500)
    cost, config = ToyCost(kv_pool_tokens=50_000), PlanConfig(order="dual-scan")

    def taken(ratio: float, of: RequestTable) -> Schedule:
        workload = make_workload(of, cost, config)
        seconds = {"dfs": 10.0, "dual-scan": 10.0 * ratio}
        return make_schedule(of, cost, config, predict=lambda s: seconds[s.order], workload=workload)

    assert taken(0.99, table).order == "dual-scan"
    slower = taken(0.999, table)
    assert slower.order == "dfs"
    assert "dual-scan is predicted to take 10.0 s, dfs 10.0 s" in slower.reason
    guessed = RequestTable.from_lists(
        [table.prompt(row).tolist() for row in range(table.n)],
        max_new_tokens=np.asarray(table.max_new_tokens).tolist(),
    )
    assert taken(0.98, guessed).order == "dfs"
    assert taken(0.80, guessed).order == "dual-scan"
