"""The accounts of the two sides, and the work that is left."""

from __future__ import annotations

import pytest

from sglang_blend.core.request import Side
from sglang_blend.scheduling.balance import SideAccounts
from sglang_blend.scheduling.lengths import PlannedLen
from sglang_blend.scheduling.pacing import learnt_density_ratio, remaining_work
from sglang_blend.scheduling.request_state import RequestState, WaitingRequests, Work
from sglang_blend.scheduling.running import RunningRequests
from simulate.jobs import COST


def _request(number: int, side: Side, *, generated: int = 0, planned_len: float = 20) -> RequestState:
    """100 prompt tokens of which 40 are shared, 20 output tokens expected."""
    return RequestState(
        handle=None,
        rid=f"r{number}",
        key=(1, 0, float(number), number),
        side=side,
        prompt_len=100,
        max_new_tokens=1000,
        expected=PlannedLen(20, 20),
        planned_len=planned_len,
        density=1.0,
        root_density=1.0,
        shared_len=40,
        num_generated=generated,
        extend_len=60,
    )


def _running(*states: RequestState) -> RunningRequests:
    """They have generated what they say."""
    running = RunningRequests(lambda states: [state.num_generated for state in states])
    for state in states:
        running.add(state)
    return running


def test_who_enters_and_leaves_changes_the_side_it_counts_on() -> None:
    """A request without a side counts on the left one."""
    accounts = SideAccounts(None)
    one, two, none = (_request(n, side) for n, side in enumerate((Side.LEFT, Side.RIGHT, Side.NONE)))
    for request in (one, two, none):
        accounts.enter(request)
    assert accounts.used == {Side.LEFT: 240.0, Side.RIGHT: 120.0}
    accounts.leave(none)
    accounts.leave(two)
    assert accounts.used == {Side.LEFT: 120.0, Side.RIGHT: 0.0}


def test_a_count_moves_outputs_that_outrun_their_estimate_to_the_right() -> None:
    """With all that they hold; leaving later takes off what was counted."""
    accounts = SideAccounts(COST)
    late, early = _request(0, Side.LEFT, generated=500), _request(1, Side.LEFT, generated=5)
    for request in (late, early):
        accounts.enter(request)
    assert accounts.count(_running(late, early)) == 1
    assert (late.side, early.side) == (Side.RIGHT, Side.LEFT)
    assert accounts.used == {Side.LEFT: 120.0, Side.RIGHT: 600.0}
    compute_s = 2 * 60 * COST.token_s + 2 * 20 * COST.decode_token_s
    assert accounts.density == pytest.approx(compute_s / (2 * 20 * 110 * sum(COST.kv_read_s)))
    accounts.leave(late)
    assert accounts.used == {Side.LEFT: 120.0, Side.RIGHT: 0.0}
    assert SideAccounts(COST).density is None


def test_what_is_left_shrinks_as_outputs_grow() -> None:
    """And is never nothing: an output that outran its estimate goes on."""

    def left(generated: int) -> float:
        running = [_request(0, Side.LEFT, generated=generated)]
        return remaining_work(Work(), running, cost=COST, mem_tokens=20_000, root_density=0.0).kv_read_s

    assert left(0) > left(10) > left(19) > 0
    assert left(25) > 0


def test_prompts_take_what_the_plan_says_unless_their_own_tokens_take_longer() -> None:
    """Sharing is the plan's to know; an infinite density (no decode at all) says nothing."""

    def prefill_s(root_density: float) -> float:
        waiting = WaitingRequests()
        for n in range(3):
            waiting.add(_request(n, Side.LEFT))
        return remaining_work(
            waiting.work, [], cost=COST, mem_tokens=20_000, root_density=root_density
        ).prefill_s

    own = pytest.approx(3 * 60 * COST.token_s)
    assert prefill_s(0.0) == prefill_s(float("inf")) == own
    read_s = 3 * 20 * 110 * sum(COST.kv_read_s)
    dense = 1e4
    assert prefill_s(dense) == pytest.approx(dense * read_s - 3 * 20 * COST.decode_token_s)
    assert prefill_s(dense) > prefill_s(0.0)


def test_a_job_is_denser_than_planned_where_outputs_turn_out_shorter() -> None:
    """By the KV reads that fall away, less what the outputs' own tokens would have computed."""
    assert learnt_density_ratio([]) == 1.0
    assert learnt_density_ratio([_request(0, Side.LEFT)]) == pytest.approx(1.0)
    waiting = [_request(n, Side.LEFT, planned_len=80) for n in range(3)]
    compute, reads = (60 + 20) / (60 + 80), (20 * 110) / (80 * 140)
    assert learnt_density_ratio(waiting) == pytest.approx(compute / reads)
