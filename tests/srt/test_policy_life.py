"""Requests come, run, finish, are aborted and retracted in any order: what the policy knows stays true."""

from __future__ import annotations

import logging
import random
from array import array
from typing import TYPE_CHECKING, Any

import pytest

from sglang_blend.core.request import Side
from sglang_blend.scheduling.hints import HINTS_KEY, Hints
from sglang_blend.scheduling.request_state import RequestState
from srt.simulated_pool import allocator

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

POOL = 20_000


@pytest.fixture(scope="module")
def args() -> Any:
    """Of an engine on the demo model."""
    from sglang_blend.demo_model import demo_model_path
    from sglang_blend.srt.flags import server_args

    return server_args(["--model-path", str(demo_model_path())])


class Life:
    """A scheduler's queue and running requests, as SGLang changes them, around the policy and its cache."""

    def __init__(self, args: Any, seed: int = 0) -> None:
        from sglang.srt.mem_cache.cache_init_params import CacheInitParams

        from sglang_blend.srt.policy import BlendSchedulePolicy
        from sglang_blend.srt.radix_cache import BlendRadixCache

        pool = allocator(POOL)
        self.tree = BlendRadixCache(CacheInitParams(False, None, pool, 1))
        self.policy = BlendSchedulePolicy("dual-scan", self.tree, False, False, False, server_args=args)
        self.queue: list[Req] = []
        self.running: list[Req] = []
        self.rng = random.Random(seed)
        self._num = 0

    def come(self, *, hints: Hints | None = None, rid: str | None = None, **params: Any) -> Req:
        """A new request at the end of the queue, one of five that begin alike; of two adapters."""
        from sglang.srt.managers.schedule_batch import Req
        from sglang.srt.sampling.sampling_params import SamplingParams

        self._num += 1
        sampling = SamplingParams(
            max_new_tokens=params.pop("max_new_tokens", 40),
            custom_params=hints and {HINTS_KEY: hints.to_json()},
            **params,
        )
        sampling.normalize(None)
        prefix = self._num % 5 * 1000
        tokens = array("q", [*range(prefix, prefix + 60), 10_000 + self._num])
        name = f"r{self._num}" if rid is None else rid
        req = Req(name, "", tokens, sampling, extra_key=self.rng.choice([None, "adapter"]))
        self.queue.append(req)
        return req

    def plan(self) -> None:
        """What SGLang asks before a pass; then everything must be as it is."""
        scheduler = self.policy.scheduler
        self.policy.calc_priority(self.queue)
        assert scheduler.num_waiting == len(self.queue)
        assert all(self._state(req).handle is req for req in self.queue)
        assert {state.rid: state.handle for state in scheduler.running} == {r.rid: r for r in self.running}
        head = [scheduler.is_candidate(self._state(req)) for req in self.queue]
        assert head == sorted(head, reverse=True)
        assert sum(scheduler.accounts.used.values()) == pytest.approx(
            sum(state.accounted for state in scheduler.running), abs=1e-6
        )
        assert len(scheduler.in_flight) <= len(self.running)
        self.tree.check_integrity()

    def start(self, req: Req) -> None:
        """It is admitted to a pass."""
        state = self._state(req)
        req.init_next_round_input(self.tree)
        self.policy.scheduler.admit(state, self.policy.host.match(state))
        self.policy.on_admitted()
        req.req_pool_idx = 1
        self.queue.remove(req)
        self.running.append(req)

    def generate(self, req: Req) -> None:
        """Its prefill is in the cache, and some tokens came."""
        assert self.tree.on_cached is not None
        self.tree.on_cached(req, False)
        req.output_ids.extend([7] * self.rng.randrange(1, 30))

    def end(self, req: Req, reason: Any) -> None:
        """It finished, or was aborted while it ran."""
        req.finished_reason = reason
        self._release(req)

    def retract(self, req: Req, *, is_aborted: bool = False) -> None:
        """Its memory is taken; `is_aborted`: and it leaves the queue before the next pass."""
        assert self.tree.on_retracted is not None
        self.tree.on_retracted(req)
        self._release(req)
        req.reset_for_retract()
        if not is_aborted:
            self.queue.append(req)

    def _state(self, req: Req) -> RequestState:
        state = self.policy.scheduler.waiting(req.rid)
        assert state is not None, req.rid
        return state

    def _release(self, req: Req) -> None:
        assert self.tree.on_cached is not None
        self.tree.on_cached(req, False)
        req.req_pool_idx = None
        self.running.remove(req)


@pytest.mark.parametrize("seed", range(6))
def test_what_the_policy_knows_stays_true_whatever_becomes_of_requests(
    seed: int, args: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With hints and without, of several namespaces, also when a name is used again."""
    from sglang.srt.managers.schedule_batch import FINISH_ABORT, FINISH_LENGTH

    life = Life(args, seed)
    rng = life.rng
    gone: list[Req] = []
    for _ in range(400):
        for _ in range(rng.choice([0, 0, 1, 2, 30])):
            hints = Hints(
                rng.randrange(1000), Side(rng.randrange(3)), 20, 30, rng.randrange(2), rng.random() * 3
            )
            life.come(
                hints=rng.choice([None, hints]),
                rid=gone.pop() if gone and rng.random() < 0.2 else None,
                ignore_eos=rng.random() < 0.3,
            )
        for req in rng.sample(life.queue, min(len(life.queue), rng.choice([0, 0, 0, 1, 20]))):
            life.queue.remove(req)
            gone.append(req.rid)
        life.plan()
        for req in life.queue[: rng.randrange(6)]:
            if life.policy.scheduler.is_candidate(life._state(req)):
                life.start(req)
        for req in list(life.running):
            what = rng.random()
            if what < 0.4:
                life.generate(req)
            elif what < 0.5:
                life.end(req, FINISH_LENGTH(len(req.output_ids)))
                gone.append(req.rid)
            elif what < 0.55:
                life.end(req, FINISH_ABORT())
                gone.append(req.rid)
            elif what < 0.6:
                life.retract(req)
            elif what < 0.62:
                life.retract(req, is_aborted=True)
                gone.append(req.rid)
    for req in list(life.running):
        life.end(req, FINISH_LENGTH(1))
    life.queue.clear()
    life.plan()
    life.come()
    life.plan()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert life.policy.scheduler.counters.retracted > 0


def test_who_holds_no_memory_runs_no_more_whatever_took_it(args: Any) -> None:
    """Otherwise a request that left in a way nobody thought of would keep others waiting for ever."""
    life = Life(args)
    first = life.come()
    life.plan()
    life.start(first)
    life.come()
    life.plan()
    first.req_pool_idx = None
    life.running.remove(first)
    life.plan()
    assert sum(life.policy.scheduler.accounts.used.values()) == 0
