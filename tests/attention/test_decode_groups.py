"""The forest that requests join and leave finds what the obvious grouping finds."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention.batches import FREE, RadixSlots, break_evens, prompts
from oracles.naive_groups import naive_groups
from sglang_blend.attention.decode_groups import DecodeGroups
from sglang_blend.attention.prefix_forest import PrefixForest
from sglang_blend.attention.shared_runs import SharedRuns
from sglang_blend.cost.break_even import BreakEven


def _without_last(slots: list[Any], at: Any) -> list[Any]:
    """Slots of the prompts that are asked for, without what is computed in this step."""
    return [slots[i][:-1] for i in at]


def said(groups: SharedRuns) -> list[tuple[Any, ...]]:
    """Everything a result says, comparable."""
    runs = [(r.start, r.end, r.slots.tolist(), r.readers.tolist(), r.level) for r in groups.runs]
    return [*runs, groups.private_start.tolist()]


@given(prompts, break_evens)
def test_the_forest_groups_as_the_obvious_way_does(prompts: Any, break_even: Any) -> None:
    radix = RadixSlots()
    slots = [radix.slots(p) for p in prompts]
    forest = PrefixForest(break_even)
    for row, of_row in enumerate(slots):
        forest.join(row, of_row)
        forest.check_integrity()
    assert said(forest.shared_runs(np.arange(len(slots)))) == said(naive_groups(slots, break_even))


@given(prompts, break_evens, st.data())
def test_leaving_is_as_if_one_had_never_joined(prompts: Any, break_even: Any, data: Any) -> None:
    radix = RadixSlots()
    slots = [radix.slots(p) for p in prompts]
    forest = PrefixForest(break_even)
    for row, of_row in enumerate(slots):
        forest.join(row, of_row)
    stay = [row for row in range(len(slots)) if data.draw(st.booleans())]
    for row in set(range(len(slots))) - set(stay):
        forest.leave(row)
        forest.check_integrity()
    order = data.draw(st.permutations(stay))
    expected = naive_groups([slots[row] for row in order], break_even)
    assert said(forest.shared_runs(np.array(order, np.int64))) == said(expected)


@given(prompts, break_evens)
def test_every_token_is_in_one_part(prompts: Any, break_even: Any) -> None:
    """Runs and private part of a request, one after the other, are its slots."""
    radix = RadixSlots()
    slots = [radix.slots(p) for p in prompts]
    groups = naive_groups(slots, break_even)
    for position, of_request in enumerate(slots):
        mine = [run for run in groups.runs if position in run.readers]
        assert [run.level for run in mine] == list(range(len(mine)))
        parts = [run.slots for run in mine] + [of_request[groups.private_start[position] :]]
        assert np.concatenate(parts).tolist() == of_request.tolist()


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(prompts.filter(len), st.lists(st.booleans(), min_size=40, max_size=40), st.booleans()),
        max_size=8,
    ),
    break_evens,
)
def test_following_the_batch_is_as_looking_at_it_anew(steps: Any, break_even: Any) -> None:
    """Requests come, decode and go, and rows are used again at once."""
    radix, groups = RadixSlots(), DecodeGroups(break_even)
    running: dict[int, list[int]] = {}  # row -> tokens
    serial = 1000
    for newcomers, leavers, reordered in steps:
        for row in [r for r, leaves in zip(list(running), leavers, strict=False) if leaves]:
            del running[row]
        fresh = [row for row in range(40) if row not in running][: len(newcomers)]
        for row, tokens in zip(fresh, newcomers, strict=True):
            running[row] = list(tokens)
        groups.on_prefill(np.array(fresh, np.int64))
        if reordered:
            running = dict(reversed(running.items()))
        for _ in range(2):
            for tokens in running.values():
                serial += 1
                tokens.append(serial)  # what is decoded is nobody else's
            slots = [radix.slots(tokens) for tokens in running.values()]
            rows = np.array(list(running), np.int64)
            lens = np.array([len(s) for s in slots], np.int64)
            found = groups.update(rows, lens, partial(_without_last, slots))
            assert said(found) == said(naive_groups([s[:-1] for s in slots], break_even))


def test_slots_that_are_exchanged_after_the_first_step_are_seen() -> None:
    """Under the overlap schedule: the newcomer's own slots become another's before its second step."""
    groups = DecodeGroups(FREE, settle_late=True)
    slots = [np.arange(10), np.arange(50, 60)]
    rows, lens = np.array([4, 7]), np.array([11, 11])

    def fetch(at: np.ndarray) -> list[np.ndarray]:
        return [slots[i] for i in at]

    assert groups.update(rows, lens, fetch).runs == ()
    slots[1] = slots[0]  # the cache had the same tokens; 50 to 59 are free again
    assert groups.update(rows, lens + 1, fetch).private_start.tolist() == [10, 10]
    slots.append(np.arange(50, 60))
    rows, lens = np.array([4, 7, 9]), np.array([13, 13, 11])
    assert groups.update(rows, lens, fetch).private_start.tolist() == [10, 10, 0]
    for step in (1, 2):
        found = groups.update(rows, lens + step, fetch)
        assert said(found) == said(naive_groups(slots, FREE))


def test_a_request_that_leaves_after_its_first_step_is_forgotten() -> None:
    """Also if its row is taken at once."""
    groups = DecodeGroups(FREE, settle_late=True)
    groups.update(np.array([4, 7]), np.array([11, 11]), lambda at: [])
    groups.on_prefill(np.array([7]))
    groups.update(np.array([4, 7]), np.array([12, 5]), lambda at: [np.arange(10)] * len(at))
    found = groups.update(np.array([4, 7]), np.array([13, 6]), lambda at: [np.arange(4)] * len(at))
    assert found.private_start.tolist() == [4, 4]


def test_a_reused_row_of_the_expected_length_is_a_newcomer() -> None:
    """A request ends and another takes its row with just the length that the first would have had."""
    groups = DecodeGroups(FREE)
    rows, before = np.array([4, 7]), [np.arange(10), np.arange(10)]
    shared = groups.update(rows, np.array([11, 11]), lambda at: [before[i] for i in at])
    assert shared.private_start.tolist() == [10, 10]
    after = [np.arange(11), np.arange(100, 111)]
    groups.on_prefill(np.array([7]))
    assert groups.update(rows, np.array([12, 12]), lambda at: [after[i] for i in at]).runs == ()


def test_a_step_that_changes_nothing_gives_the_same_object() -> None:
    """What is built from it need not be built again."""
    groups, slots = DecodeGroups(FREE), [np.arange(10), np.arange(10)]
    first = groups.update(np.array([0, 1]), np.array([11, 11]), lambda at: [slots[i] for i in at])
    assert first.saved_tokens == 10
    assert groups.update(np.array([0, 1]), np.array([12, 12]), lambda at: []) is first


def test_short_runs_and_few_readers_do_not_pay() -> None:
    break_even = BreakEven(group_tokens=100, reader_tokens=2)
    assert not break_even.pays(2, 100)
    assert break_even.pays(2, 105)
    assert break_even.pays(32, 6)
    assert not break_even.pays(32, 5)
