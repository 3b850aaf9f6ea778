"""The annotated radix cache: demand stays true through insert, split, evict and reset."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

# Prompts of different namespaces share nothing.
prompts = st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.sampled_from([None, "adapter"]))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), prompts),
        st.tuples(st.just("expect"), prompts),
        st.tuples(st.just("forget"), st.integers(0, 8)),
        st.tuples(st.just("match"), prompts),
        st.tuples(st.just("lock"), prompts),
        st.tuples(st.just("evict"), st.integers(1, 8)),
        st.tuples(st.just("reset"), st.none()),
    ),
    max_size=40,
)


class Allocator:
    """The parts of a KV allocator that a cache without memory asks."""

    device = "cpu"
    page_size = 1
    size = 64

    def free_segments(self, segments: Any) -> None:
        """Nothing is held."""

    def free_segment(self, indices: Any, start_pos: int) -> None:
        """Nothing is held."""


def make_cache(page_size: int = 1, **options: Any) -> Any:
    """A cache without memory behind it."""
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams

    from sglang_blend.srt.radix_cache import BlendRadixCache

    params = CacheInitParams(
        disable=False,
        req_to_token_pool=None,
        token_to_kv_pool_allocator=Allocator(),
        page_size=page_size,
    )
    return BlendRadixCache(params, **options)


def key(tokens: list[int], namespace: str | None = None) -> Any:
    from sglang.srt.mem_cache.radix_cache import RadixKey

    return RadixKey(array("q", tokens), namespace)


def insert(cache: Any, tokens: list[int], namespace: str | None = None) -> None:
    from sglang.srt.mem_cache.base_prefix_cache import InsertParams

    cache.insert(InsertParams(key=key(tokens, namespace), value=None))


def match(cache: Any, tokens: list[int], namespace: str | None = None) -> Any:
    from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams

    return cache.match_prefix(MatchPrefixParams(key=key(tokens, namespace)))


def evict(cache: Any, num_tokens: int) -> None:
    from sglang.srt.mem_cache.base_prefix_cache import EvictParams

    cache.evict(EvictParams(num_tokens=num_tokens))


def cached(cache: Any, tokens: list[int]) -> int:
    return len(match(cache, tokens).device_indices)


@pytest.mark.parametrize("page_size", [1, 2])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_demand_stays_true_whatever_happens_to_the_tree(page_size: int, steps: list[Any]) -> None:
    cache = make_cache(page_size)
    names: Iterator[int] = iter(range(1000))
    locked = []
    for what, value in steps:
        if what == "insert":
            insert(cache, *value)
        elif what == "expect":
            n = next(names)
            cache.expect(f"r{n}", key(*value), (1, 0, n, n))
        elif what == "forget":
            cache.forget(f"r{value}")
        elif what == "match":
            match(cache, *value)
        elif what == "lock":
            locked.append(match(cache, *value).last_device_node)
            cache.inc_lock_ref(locked[-1])
        elif what == "evict":
            evict(cache, value)
        else:
            while locked:
                cache.dec_lock_ref(locked.pop())
            cache.reset()
        cache.check_integrity()


def test_a_wrong_count_is_noticed() -> None:
    cache = make_cache()
    insert(cache, [1, 2, 3])
    cache.expect("a", key([1, 2, 3, 4]), (1, 0, 0, 0))
    cache.root_node.demand.num_pending += 1
    with pytest.raises(AssertionError, match="counts 2 pending requests, there are 1"):
        cache.check_integrity()


def test_what_is_needed_goes_last_and_what_is_needed_next_at_the_very_last() -> None:
    cache = make_cache()
    for first in (1, 2, 3):
        insert(cache, [first] * 4)
    cache.expect("late", key([1, 1, 1, 1, 9]), (1, 0, 7, 0))
    cache.expect("soon", key([2, 2, 2, 2, 9]), (1, 0, 3, 1))
    for left in ([2, 1], [2], []):
        evict(cache, 4)
        assert [first for first in (2, 1, 3) if cached(cache, [first] * 4)] == left
    assert (cache.num_evicted_tokens, cache.num_evicted_wanted_tokens) == (12, 8)


def test_without_demand_the_least_recently_used_goes_first_as_in_sglang() -> None:
    cache = make_cache(demand_aware_eviction=False)
    for first in (1, 2):
        insert(cache, [first] * 4)
    cache.expect("needs the older", key([1, 1, 1, 1, 9]), (1, 0, 0, 0))
    evict(cache, 4)
    assert (cached(cache, [1] * 4), cached(cache, [2] * 4)) == (0, 4)


def decoding(cache: Any, prompt: list[int], output: list[int], **state: Any) -> Any:
    """A request whose last output has not been computed; what it holds is not in the tree yet."""
    import torch

    cache.req_to_token_pool = SimpleNamespace(req_to_token=torch.arange(1, 41).reshape(2, 20))
    state = {"to_finish": None, "finished": lambda: False} | state
    return SimpleNamespace(
        rid="r", origin_input_ids=array("q", prompt), output_ids=array("q", output), extra_key=None,
        req_pool_idx=0, cache_protected_len=0, last_node=None, priority=0, **state,
    )  # fmt: skip


def test_what_a_retracted_request_has_computed_stays_until_it_is_evicted() -> None:
    cache, retracted = make_cache(), []
    cache.on_retracted = lambda req: retracted.append(req.rid)
    cache.cache_finished_req(decoding(cache, [1] * 6, [2, 3, 4]), False, kv_len_to_handle=8)
    assert cached(cache, [1] * 6 + [2, 3, 4]) == 8
    assert retracted == ["r"]
    evict(cache, 8)
    assert cached(cache, [1] * 6 + [2, 3, 4]) == 0


@pytest.mark.parametrize(
    "state",
    [{"to_finish": "aborted"}, {"finished": lambda: True}, {"skip_radix_cache_insert": True}],
    ids=["aborted", "finished", "not for the cache"],
)
def test_what_will_not_go_on_leaves_nothing_when_it_is_released(state: dict[str, Any]) -> None:
    cache, retracted = make_cache(), []
    cache.on_retracted = lambda req: retracted.append(req.rid)
    cache.cache_finished_req(decoding(cache, [1] * 6, [2, 3, 4], **state), False, kv_len_to_handle=8)
    assert cached(cache, [1] * 6) == 0
    assert retracted == []


@pytest.mark.parametrize(("page_size", "left"), [(1, 35), (4, 32)])
def test_of_a_document_that_is_needed_only_the_end_goes(page_size: int, left: int) -> None:
    document = list(range(40))
    cache = make_cache(page_size)
    insert(cache, document)
    cache.expect("reader", key([*document, 99]), (1, 0, 0, 0))
    evict(cache, 5)
    cache.check_integrity()
    assert cached(cache, document) == left
    cache.forget("reader")
    evict(cache, 1)
    assert cached(cache, document) == 0, "nobody waits for it: all of it goes, as in SGLang"
