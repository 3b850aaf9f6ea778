"""A host in plain Python for the scheduler's tests: prompts of tokens, and a cache that is a list of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sglang_blend.core.request import Side
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.scheduling.admission import PrefillPass, Verdict
from sglang_blend.scheduling.arrivals import Arrival
from sglang_blend.scheduling.hints import HINTS_KEY, Hints
from sglang_blend.scheduling.host import Match, WindowPool
from sglang_blend.scheduling.in_flight import common_prefix_len
from sglang_blend.scheduling.request_state import RequestState
from sglang_blend.scheduling.scheduler import Scheduler
from sglang_blend.scheduling.switches import SchedulerOptions
from simulate.jobs import COST

POOL = 20_000


@dataclass(eq=False)
class Prompt:
    """What a test knows of a request: the handle of its state."""

    rid: str
    tokens: array[int]
    namespace: str = ""
    output_len: int = 0
    usable_len: int | None = None  # tokens that it takes from a cache at most; None: all but the last


@dataclass
class TokenHost:
    """See `sglang_blend.scheduling.host.Host`; nothing is ever evicted."""

    mem_tokens: int = POOL
    page_size: int = 1
    caches_prefixes: bool = True
    tells_when_cached: bool = True
    cached: list[Prompt] = field(default_factory=list)
    expected: dict[str, tuple[int, int, float, int]] = field(default_factory=dict)
    held: float = 0.0
    window: WindowPool | None = None
    num_matches: int = 0

    def count_generated(self, states: Sequence[RequestState]) -> list[int]:
        return [state.handle.output_len for state in states]

    def match(self, state: RequestState) -> Match:
        self.num_matches += 1
        prompt: Prompt = state.handle
        most = len(prompt.tokens) - 1 if prompt.usable_len is None else prompt.usable_len
        found = max(
            (common_prefix_len(c.tokens, prompt.tokens) for c in self._of(prompt.namespace)), default=0
        )
        cached_len = min(found, most) // self.page_size * self.page_size
        rest = prompt.tokens[cached_len:]
        place = (tuple(prompt.tokens[:cached_len]), prompt.namespace, rest[0])
        return Match(cached_len, len(rest), most - cached_len, place, rest)

    def common_len(self, a: array[int], b: array[int]) -> int:
        return common_prefix_len(a, b)

    def unlocked_prefix(self, state: RequestState) -> Iterator[tuple[int, int]]:
        return iter(())

    def held_tokens(self) -> float:
        return self.held

    def window_pool(self) -> WindowPool | None:
        return self.window

    def expect(self, state: RequestState) -> None:
        self.expected[state.rid] = state.key

    def forget(self, rid: str) -> None:
        self.expected.pop(rid, None)

    def num_expected(self) -> int:
        return len(self.expected)

    def forget_all(self) -> None:
        self.expected.clear()

    def _of(self, namespace: str) -> list[Prompt]:
        return [prompt for prompt in self.cached if prompt.namespace == namespace]


def scheduler(
    host: TokenHost | None = None, options: SchedulerOptions | None = None, cost: RooflineCost | None = COST
) -> Scheduler:
    """One that nobody has told anything."""
    return Scheduler("dual-scan", TokenHost() if host is None else host, cost, options)


def arrival(
    number: int,
    tokens: Sequence[int] | None = None,
    *,
    hints: Hints | None = None,
    density: float = 1.0,
    observed: int = 1,
    output_len: int = 20,
    max_new_tokens: int = 40,
    side: Side = Side.LEFT,
    namespace: str = "",
    rid: str | None = None,
    usable_len: int | None = None,
) -> Arrival:
    """A planned request of 100 tokens, no two alike, with 20 to come, unless told otherwise."""
    ids = array("q", range(number * 1000, number * 1000 + 100) if tokens is None else tokens)
    name = f"r{number}" if rid is None else rid
    if hints is None:
        hints = Hints(number, side, output_len, output_len, observed, density, density)
    return Arrival(
        rid=name,
        handle=Prompt(name, ids, namespace, usable_len=usable_len),
        prompt_len=len(ids),
        max_new_tokens=max_new_tokens,
        custom_params={HINTS_KEY: hints.to_json()},
        token_ids=ids,
        namespace=namespace,
    )


def run_pass(
    scheduler: Scheduler, *, num_decoding: int = 0, chunk_tokens: int | None = 8192
) -> tuple[list[str], PrefillPass]:
    """One pass over the candidates, as a host asks: who was admitted, in order."""
    head = scheduler.next_candidates()
    if head is None:
        head = sorted(scheduler.all_waiting(), key=lambda state: state.key)
    started = scheduler.begin_pass(num_decoding=num_decoding, chunk_tokens=chunk_tokens)
    admitted = []
    for state in head:
        verdict = started.ask(state)
        if verdict is Verdict.ADMIT:
            started.admitted(state)
            admitted.append(state.rid)
        elif verdict is not Verdict.SKIP:
            break
    return admitted, started


def cache(scheduler: Scheduler, rids: Sequence[str]) -> None:
    """The prefill of these requests has run, and the host tells, if it can."""
    host = scheduler.host
    assert isinstance(host, TokenHost)
    for rid in rids:
        state = scheduler.running.get(rid)
        assert state is not None, rid
        host.cached.append(state.handle)
        if host.tells_when_cached:
            scheduler.cached(rid)
