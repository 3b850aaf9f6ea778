"""What the scheduler knows and decides, on a host of plain Python: no sglang."""

from __future__ import annotations

import logging
import random
import subprocess
import sys

import pytest

from scheduling.token_host import POOL, TokenHost, arrival, cache, run_pass, scheduler
from sglang_blend.core.request import Side
from sglang_blend.scheduling.arrivals import Arrival
from sglang_blend.scheduling.hints import HINTS_KEY, Hints
from sglang_blend.scheduling.online_plan import Newcomer
from sglang_blend.scheduling.scheduler import Scheduler
from sglang_blend.scheduling.switches import SchedulerOptions


def start(scheduler: Scheduler, *arrivals: Arrival) -> None:
    """They come and are admitted, whatever the memory says."""
    for one in arrivals:
        state = scheduler.arrive(one)
        scheduler.admit(state, scheduler.host.match(state))


def test_deciding_needs_no_engine() -> None:
    """Neither sglang nor torch is imported, directly or by way of others."""
    code = (
        "import sys, pkgutil, importlib, sglang_blend.scheduling as s\n"
        "for m in pkgutil.iter_modules(s.__path__): importlib.import_module(f'{s.__name__}.{m.name}')\n"
        "print([m for m in ('sglang', 'torch', 'ray') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_prefill_beside_decode_is_what_the_density_of_the_rest_asks_for() -> None:
    """Denser work allows more prompt tokens a step, up to the chunk; without requests nothing is paced."""
    one = scheduler()
    assert one.prefill_tokens(8, 512) == 512
    tokens = []
    for density in (1.0, 20.0, 1e6):
        one.arrive(arrival(0, density=density))
        tokens.append(one.prefill_tokens(8, 4096))
        one.leave("r0")
    assert 32 <= tokens[0] < tokens[1] < tokens[2] == 4096
    assert one.counters.paced_passes == 2
    free = scheduler(options=SchedulerOptions(paced_budget=False))
    free.arrive(arrival(0, density=1.0))
    assert free.prefill_tokens(8, 4096) == 4096


def test_prefill_beside_decode_grows_when_outputs_turn_out_shorter_than_planned() -> None:
    """Less is left to read, so each step has to compute more for both to end together."""
    one = scheduler()
    for number in range(60):
        one.arrive(arrival(number, density=2.0, observed=0))
    one.next_candidates()
    before = one.prefill_tokens(8, 4096)
    for number in range(20):
        state = one.waiting(f"r{number}")
        assert state is not None
        one.admit(state, one.host.match(state))
        one.finish(state.rid, 2)
    one.next_candidates()
    assert one.prefill_tokens(8, 4096) > 3 * before


def test_what_ends_as_planned_is_neither_early_nor_late() -> None:
    """Of a few tokens, too."""
    one = scheduler()
    for number, (planned, output_len) in enumerate([(20, 20), (3, 3), (1, 1), (20, 10), (3, 5)]):
        start(one, arrival(number, output_len=planned))
        one.finish(f"r{number}", output_len)
    assert (one.counters.finished, one.counters.early, one.counters.overrun) == (5, 1, 1)


def test_what_has_finished_is_no_work_that_is_left() -> None:
    """Half of what runs is half of the reads."""
    one = scheduler()
    start(one, arrival(0), arrival(1))
    both = one.split_work()
    one.finish("r0", 20)
    left = one.split_work()
    assert both is not None
    assert left is not None
    assert left.kv_read_s == pytest.approx(both.kv_read_s / 2)


def test_another_job_does_not_learn_from_the_one_before() -> None:
    """What was learnt of output lengths is forgotten when the cache is flushed."""
    one = scheduler()
    expected = []
    for number in range(60):
        state = one.arrive(arrival(number, observed=0))
        one.next_candidates()
        expected.append(state.mean_len)
        one.admit(state, one.host.match(state))
        one.finish(state.rid, 2)
    assert expected[-1] < expected[0] / 3
    one.forget_lengths()
    assert one.arrive(arrival(100, observed=0)).mean_len == expected[0]


def test_the_work_left_is_that_of_all_that_wait() -> None:
    """Twice the requests are twice the work."""
    one = scheduler()
    for number in range(2):
        one.arrive(arrival(number, density=0.0))
    two = one.split_work()
    for number in (2, 3):
        one.arrive(arrival(number, density=0.0))
    four = one.split_work()
    assert two is not None
    assert four is not None
    assert one.cost is not None
    assert two.prefill_s == pytest.approx(200 * one.cost.token_s)
    for part in ("prefill_s", "decode_gemm_s", "kv_read_s"):
        assert getattr(four, part) == pytest.approx(2 * getattr(two, part))
    assert four.kv_read_s == pytest.approx(4 * 20 * 110 * sum(one.cost.kv_read_s))
    assert scheduler(cost=None).split_work() is None


def test_what_a_retracted_request_computed_is_wanted_at_once() -> None:
    """Before it is back in the queue."""
    host = TokenHost()
    one = scheduler(host)
    start(one, arrival(0))
    assert not host.expected
    one.retracting("r0")
    assert list(host.expected) == ["r0"]


def test_a_retracted_request_comes_back_to_its_place_with_what_it_generated() -> None:
    """It is asked for less, and its account is empty until it runs again."""
    one = scheduler()
    first = arrival(0)
    start(one, first)
    first.handle.output_len = 15
    state = one.arrive(first)
    assert (one.counters.retracted, state.num_generated, state.key[2]) == (1, 15, 0)
    assert sum(one.accounts.used.values()) == 0
    assert "r0" not in one.running


def test_a_name_can_be_used_again_whether_the_first_waited_or_ran() -> None:
    """The new request is the one that is known."""
    one = scheduler()
    one.arrive(arrival(0))
    again = arrival(0)
    assert one.arrive(again).handle is again.handle
    assert one.num_waiting == 1
    state = one.waiting("r0")
    assert state is not None
    one.admit(state, one.host.match(state))
    third = arrival(0)
    assert one.arrive(third).handle is third.handle
    assert len(one.running) == 0


@pytest.mark.parametrize("page_size", [1, 16, 64])
def test_one_leads_and_the_others_follow_in_the_next_pass(page_size: int) -> None:
    """Of 100 shared tokens the cache gives whole pages; nobody waits for the rest."""
    assert _passes(100, host=TokenHost(page_size=page_size)) == [1, 19]


def test_nobody_waits_for_less_than_a_page() -> None:
    """As much as a chat template writes in front of every prompt."""
    assert _passes(30, host=TokenHost(page_size=64)) == [20]


def test_nobody_waits_where_the_cache_is_off_or_the_rule_is() -> None:
    """Nobody would find what the leader computes."""
    assert _passes(100, host=TokenHost(caches_prefixes=False)) == [20]
    assert _passes(100, host=TokenHost(), options=SchedulerOptions(leader_rule=False)) == [20]


def test_nobody_waits_for_what_it_may_not_take_from_a_cache() -> None:
    """Log-probabilities of a prompt are computed from its own prefill."""
    assert _passes(100, host=TokenHost(), usable_len=0) == [20]


def test_nobody_waits_for_ever_in_a_cache_that_keeps_nothing() -> None:
    """With state-space layers a prefix is found only where SGLang kept the state."""
    assert _passes(100, host=TokenHost(tells_when_cached=False), is_kept=False) == [1, 1, 18]


def _passes(
    shared_len: int,
    *,
    host: TokenHost,
    options: SchedulerOptions | None = None,
    usable_len: int | None = None,
    is_kept: bool = True,
) -> list[int]:
    """Twenty requests that begin alike: how many are admitted in each pass."""
    one = scheduler(host, options)
    for number in range(20):
        own = range(1000 * (number + 1), 1000 * (number + 1) + 100)
        one.arrive(arrival(number, [*range(shared_len), *own], usable_len=usable_len))
    passes = []
    while one.num_waiting:
        admitted, _ = run_pass(one)
        if is_kept and host.caches_prefixes:
            cache(one, admitted)
        passes.append(len(admitted))
    return passes


def test_a_chunk_in_the_cache_moves_its_leader_on() -> None:
    """A sharer then waits for the rest of the prompt only, from where the cache ends."""
    host = TokenHost()
    one = scheduler(host)
    leader, sharer = arrival(0, range(300)), arrival(1, [*range(200), *range(5000, 5100)])
    one.arrive(leader)
    admitted, _ = run_pass(one)
    assert admitted == ["r0"]
    host.cached.append(arrival(9, range(150)).handle)
    one.chunk_cached("r0")
    one.arrive(sharer)
    assert run_pass(one)[0] == []
    assert one.counters.skipped == 1
    cache(one, ["r0"])
    assert run_pass(one)[0] == ["r1"]


def test_requests_are_admitted_while_their_expected_peak_fits() -> None:
    """Ten of 100 + 20 tokens fill a pool of 1,200; the rest waits, and asks no more until one finishes."""
    host = TokenHost(mem_tokens=1200)
    one = scheduler(host)
    for number in range(15):
        one.arrive(arrival(number))
    admitted, first = run_pass(one)
    assert admitted == [f"r{number}" for number in range(10)]
    assert not first.found_no_room
    host.held = 1000
    assert run_pass(one)[0] == []
    assert not one.is_stuck
    assert run_pass(one)[0] == []
    assert one.is_stuck
    one.finish("r0", 20)
    host.held = 900
    assert run_pass(one)[0] == ["r10"]


def test_where_nothing_runs_whoever_asks_is_admitted() -> None:
    """Even one that is expected to outgrow the pool: nothing will ever make more room."""
    one = scheduler(TokenHost(mem_tokens=110))
    one.arrive(arrival(0))
    assert run_pass(one)[0] == ["r0"]


def test_memory_is_kept_for_those_that_wait_for_a_prefix() -> None:
    """A later request may not take it."""
    one = scheduler(TokenHost(mem_tokens=560))
    shared = list(range(100))
    for number in range(3):
        one.arrive(arrival(number, [*shared, *range(1000 * (number + 1), 1000 * (number + 1) + 100)]))
    one.arrive(arrival(3))
    assert run_pass(one)[0] == ["r0"]
    without = scheduler(TokenHost(mem_tokens=560))
    without.arrive(arrival(0, [*shared, *range(1000, 1100)]))
    without.arrive(arrival(3))
    assert run_pass(without)[0] == ["r0", "r3"]


def test_a_short_request_may_use_the_room_that_a_long_one_does_not_find() -> None:
    """If it ends before half of what runs does, and opens no prefix that others would need."""

    def admitted(output_len: int, shared_len: int = 0) -> list[str]:
        one = scheduler(TokenHost(mem_tokens=1000))
        for number in range(4):
            one.arrive(arrival(number, output_len=30))
        one.arrive(arrival(4, range(4000, 4600), output_len=30))
        hints = Hints(5, Side.LEFT, output_len, output_len, 1, shared_len=shared_len)
        one.arrive(arrival(5, hints=hints))
        return run_pass(one)[0]

    assert admitted(5) == ["r0", "r1", "r2", "r3", "r5"]
    assert admitted(40) == ["r0", "r1", "r2", "r3"]
    assert admitted(5, shared_len=90) == ["r0", "r1", "r2", "r3"]


def test_where_one_side_finds_no_room_the_other_has_its_turn() -> None:
    """A large request of the right does not keep small ones of the left waiting."""
    one = scheduler(TokenHost(mem_tokens=1000))
    one.arrive(arrival(0, output_len=30))
    one.arrive(arrival(1, range(5000, 5950), side=Side.RIGHT, output_len=40))
    one.arrive(arrival(2, output_len=40))
    assert run_pass(one)[0] == ["r0", "r2"]


def test_a_prompt_in_mixed_chunk_is_computed_while_others_decode() -> None:
    """A pass has the chunk; the first one is the step itself, and each further one a token to come."""
    asked = []
    for prompt_len in (1, 500, 501, 1500, 1501):
        one = scheduler(options=SchedulerOptions(paced_budget=False))
        one.arrive(arrival(0, range(prompt_len)))
        _, started = run_pass(one, num_decoding=12, chunk_tokens=500)
        asked.append(started._asked[1] - 20)
    assert asked == [0, 0, 1, 2, 3]
    one = scheduler()
    one.arrive(arrival(0, range(2500)))
    assert run_pass(one, chunk_tokens=500)[1]._asked[1] == 20, "without mixed chunk nobody decodes meanwhile"


@pytest.mark.parametrize(
    ("is_fixed_len", "hints", "expected"),
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
    is_fixed_len: bool, hints: Hints | None, expected: float | None
) -> None:
    """With hints and without; an estimate that rests on nothing is none. None: what was seen."""
    one = scheduler()
    seen = one.arrive(arrival(1, observed=0, max_new_tokens=200)).mean_len
    asked = arrival(2, max_new_tokens=200)
    asked.is_fixed_len = is_fixed_len
    asked.custom_params = hints and {HINTS_KEY: hints.to_json()}
    assert one.arrive(asked).mean_len == (expected or seen)


def test_hints_that_cannot_be_used_are_told_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """The request runs all the same, planned here."""
    one = scheduler()
    for number in range(3):
        bad = arrival(number)
        bad.custom_params = {HINTS_KEY: {"rank": "first"}}
        one.arrive(bad)
    assert one.counters.refused_hints == 3
    (record,) = caplog.records
    assert "rank is 'first'" in record.getMessage()
    assert one.num_waiting == 3


@pytest.mark.parametrize("what", ["accounts", "in flight", "expected", "plan"])
def test_an_account_that_is_not_empty_when_nothing_runs_is_told_and_put_right(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Drift is a bug, but no reason to end a job: it would reserve memory, or let sharers wait for nobody."""
    host = TokenHost()
    one = scheduler(host)
    one.check_when_idle()
    assert not caplog.records
    match what:
        case "accounts":
            one.accounts.used[Side.LEFT] += 500
        case "in flight":
            one.in_flight.lead("ghost", 1, range(60))
        case "expected":
            host.expected["ghost"] = (1, 0, 0, 0)
        case "plan":
            one._arrivals._plan.arrive(Newcomer("ghost", arrival(1).token_ids, 40, 20.0, 30.0, ""))
    one.check_when_idle()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert what in record.getMessage()
    caplog.clear()
    one.check_when_idle()
    assert not caplog.records


def test_a_running_account_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """What runs may hold memory, lead, and be expected again when it was retracted."""
    one = scheduler()
    start(one, arrival(0))
    one.retracting("r0")
    one.check_when_idle()
    assert sum(one.accounts.used.values()) > 0
    assert not caplog.records


@pytest.mark.parametrize("seed", range(6))
def test_what_is_known_stays_true_whatever_becomes_of_requests(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With hints and without, of several namespaces, also when a name is used again."""
    rng = random.Random(seed)
    host = TokenHost()
    one = scheduler(host)
    waiting: dict[str, Arrival] = {}
    running: dict[str, Arrival] = {}
    gone: list[str] = []
    number = 0
    for _ in range(300):
        for _ in range(rng.choice([0, 0, 1, 2, 30])):
            number += 1
            name = gone.pop() if gone and rng.random() < 0.2 else f"r{number}"
            prefix = number % 5 * 1000
            come = arrival(
                rng.randrange(1000),
                [*range(prefix, prefix + 60), 10_000 + number],
                observed=rng.randrange(2),
                side=Side(rng.randrange(3)),
                density=rng.random() * 3,
                namespace=rng.choice(["", "adapter"]),
                rid=name,
            )
            if rng.random() < 0.5:
                come.custom_params = None
            one.arrive(come)
            waiting[name] = come
            running.pop(name, None)
        for name in rng.sample(sorted(waiting), min(len(waiting), rng.choice([0, 0, 1, 20]))):
            one.leave(name)
            del waiting[name]
            gone.append(name)
        one.check_when_idle()
        head = one.next_candidates()
        assert {state.rid for state in one.all_waiting()} == set(waiting)
        assert {state.rid for state in one.running} == set(running)
        assert sum(one.accounts.used.values()) == pytest.approx(
            sum(state.accounted for state in one.running), abs=1e-6
        )
        assert len(one.in_flight) <= len(running)
        assert set(host.expected) <= set(waiting)
        for state in (head or [])[: rng.randrange(6)]:
            one.admit(state, host.match(state))
            running[state.rid] = waiting.pop(state.rid)
        for name in list(running):
            chance = rng.random()
            if chance < 0.4:
                running[name].handle.output_len += rng.randrange(1, 30)
                one.cached(name)
            elif chance < 0.5:
                one.finish(name, running.pop(name).handle.output_len)
                gone.append(name)
            elif chance < 0.55:
                one.drop(name)
                del running[name]
                gone.append(name)
            elif chance < 0.6:
                waiting[name] = running.pop(name)
                one.retracting(name)
                one.arrive(waiting[name])
    assert one.counters.retracted > 0
    for name in list(running):
        one.finish(name, 1)
    for name in list(waiting):
        one.leave(name)
    one.check_when_idle()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert host.mem_tokens == POOL
