"""What the scheduler asks of the engine that it decides for.

SGLang is one host (`srt.policy`), the modelled engine of `simulate` another. A host answers; it decides
nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from sglang_blend.scheduling.request_state import RequestState


class Match(NamedTuple):
    """How a prompt meets the cache now.

    Attributes:
        cached_len: tokens of it that the cache holds.
        extend_len: tokens of it that a prefill has to compute, 1 or more.
        usable_len: of those, how many it could take from a cache that held them; SGLang computes the last
            token of every prompt, and all tokens whose log-probabilities are asked for.
        place: where it leaves the cache and how it goes on there. Two requests share uncached tokens only if
            their places are equal.
        rest: its uncached part, as `Host.common_len` takes it.
    """

    cached_len: int
    extend_len: int
    usable_len: int
    place: Hashable
    rest: Any


class WindowPool(NamedTuple):
    """The KV pool of layers with a sliding window, where they have one of their own.

    Attributes:
        pool_tokens: its size.
        used_tokens: of it, by all that runs and by what the cache cannot give back.
        most_tokens: that one request may hold.
    """

    pool_tokens: float
    used_tokens: float
    most_tokens: int


class Host(Protocol):
    """An engine with a KV pool, and perhaps a cache of prefixes in it.

    Attributes:
        mem_tokens: M, tokens of the KV pool; of the layers that see everything.
        page_size: tokens of a page: the cache finds whole pages.
        caches_prefixes: whether anybody finds what another request has computed.
        tells_when_cached: whether it calls `Scheduler.cached` for each request.
    """

    mem_tokens: int
    page_size: int
    caches_prefixes: bool
    tells_when_cached: bool

    def count_generated(self, states: Sequence[RequestState]) -> Sequence[int]:
        """Output tokens so far of each running request, in the order given."""

    def match(self, state: RequestState) -> Match:
        """How the prompt of a waiting request, or the rest of one computed in chunks, meets the cache."""

    def common_len(self, a: Any, b: Any) -> int:
        """Tokens that two uncached parts with equal places have in common from the start."""

    def unlocked_prefix(self, state: RequestState) -> Iterable[tuple[int, int]]:
        """The cached nodes on the way of a waiting request's prompt that no running request holds.

        Admission takes them from what can be evicted. Nothing where the cache does not know the request.

        Returns:
            Number and tokens of each node.
        """

    def held_tokens(self) -> float:
        """Tokens of the pool that cannot be had: held, or needed by prompts that are being computed."""

    def window_pool(self) -> WindowPool | None:
        """The pool of layers with a sliding window as it is now; None where they have none of their own."""

    def expect(self, state: RequestState) -> None:
        """A request waits at the place of its key: evict what it needs last. Again: it has another place."""

    def forget(self, rid: str) -> None:
        """It waits no longer; nothing happens where it was not expected."""

    def num_expected(self) -> int:
        """Requests that are expected."""

    def forget_all(self) -> None:
        """Nobody is expected."""
