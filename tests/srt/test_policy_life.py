"""Requests come, run, finish, are aborted and retracted in any order: what the policy knows stays true."""

from __future__ import annotations

import logging
import random
from array import array
from typing import TYPE_CHECKING, Any

import pytest

from sglang_blend.core.request import Side
from sglang_blend.scheduling.hints import HINTS_KEY, Hints
from sglang_blend.scheduling.online_plan import Newcomer
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
        policy = self.policy
        policy.calc_priority(self.queue)
        assert policy.num_waiting == len(self.queue)
        assert all(policy.waiting(req).req is req for req in self.queue)
        assert {rid: r.req for rid, r in policy.running.items()} == {r.rid: r for r in self.running}
        head = {req.rid for req in self.queue[: len(policy.candidates)]}
        assert head == policy.candidates
        assert sum(policy.accounts.used.values()) == pytest.approx(
            sum(r.accounted for r in policy.running.values()), abs=1e-6
        )
        assert len(policy.in_flight) <= len(self.running)
        self.tree.check_integrity()

    def start(self, req: Req) -> None:
        """It is admitted to a pass."""
        req.last_node = self.tree.root_node
        self.policy.admit(req, 0)
        req.req_pool_idx = 1
        self.queue.remove(req)
        self.running.append(req)

    def generate(self, req: Req) -> None:
        """Its prefill is in the cache, and some tokens came."""
        self.tree.on_cached(req, False)
        req.output_ids.extend([7] * self.rng.randrange(1, 30))

    def end(self, req: Req, reason: Any) -> None:
        """It finished, or was aborted while it ran."""
        req.finished_reason = reason
        self._release(req)

    def retract(self, req: Req, *, is_aborted: bool = False) -> None:
        """Its memory is taken; `is_aborted`: and it leaves the queue before the next pass."""
        self.tree.on_retracted(req)
        self._release(req)
        req.reset_for_retract()
        if not is_aborted:
            self.queue.append(req)

    def _release(self, req: Req) -> None:
        self.tree.on_cached(req, False)
        req.req_pool_idx = None
        self.running.remove(req)


@pytest.mark.parametrize("seed", range(6))
def test_what_the_policy_knows_stays_true_whatever_becomes_of_requests(seed, args, caplog):
    """With hints and without, of several namespaces, also when a name is used again."""
    from sglang.srt.managers.schedule_batch import FINISH_ABORT, FINISH_LENGTH

    life = Life(args, seed)
    rng, gone = life.rng, []
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
            if req.rid in life.policy.candidates:
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
    assert life.policy.counters.retracted > 0


@pytest.mark.parametrize(
    ("ignore_eos", "hints", "expected"),
    [
        (True, None, 200),
        (True, Hints(0, est_output_len=50), 200),
        (True, Hints(0, est_output_len=50, num_observed=9), 200),
        (False, Hints(0, est_output_len=50, num_observed=9), 50),
        (False, Hints(0, est_output_len=500, num_observed=9), 200),
        (False, Hints(0, est_output_len=50), None),
        (False, None, None),
    ],
)
def test_a_fixed_length_goes_before_the_plan_and_the_plan_before_what_was_seen(
    ignore_eos, hints, expected, args
):
    """With hints and without; an estimate that rests on nothing is none. None: what was seen."""
    life = Life(args)
    life.come(max_new_tokens=200)
    req = life.come(max_new_tokens=200, hints=hints, ignore_eos=ignore_eos)
    life.plan()
    seen = life.policy.waiting(life.queue[0] if life.queue[0] is not req else life.queue[1]).mean_len
    assert life.policy.waiting(req).mean_len == (expected or seen)


def test_who_holds_no_memory_runs_no_more_whatever_took_it(args):
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
    assert sum(life.policy.accounts.used.values()) == 0


@pytest.mark.parametrize("what", ["accounts", "in flight", "expected", "plan"])
def test_an_account_that_is_not_empty_when_nothing_runs_is_told_and_put_right(what, args, caplog):
    """Drift is a bug, but no reason to end a job: it would reserve memory, or let sharers wait for nobody."""
    from sglang.srt.mem_cache.radix_cache import RadixKey

    life = Life(args)
    policy = life.policy
    life.plan()
    match what:
        case "accounts":
            policy.accounts.used[Side.LEFT] += 500
        case "in flight":
            policy.in_flight.lead("ghost", life.tree.root_node.id, "", array("q", range(60)))
        case "expected":
            life.tree.expect("ghost", RadixKey(array("q", range(60))), (1, 0, 0, 0))
        case "plan":
            policy._plan.arrive(Newcomer("ghost", array("q", range(60)), 40, 20.0, 30.0, ""))
    policy.settle()
    assert not caplog.records
    for _ in range(20):
        life.come()
    life.plan()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert what in record.getMessage()
    caplog.clear()
    life.queue.clear()
    life.plan()
    life.plan()
    assert not caplog.records


def test_a_running_account_is_left_alone(args, caplog):
    """What runs may hold memory, lead, and be expected again when it was retracted."""
    life = Life(args)
    req = life.come()
    life.plan()
    life.start(req)
    life.tree.on_retracted(req)
    life.plan()
    assert sum(life.policy.accounts.used.values()) > 0
    assert not caplog.records
