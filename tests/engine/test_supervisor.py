"""An engine that dies, hangs or does not start: requests run again, the job goes on or ends with a reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from sglang_blend.engine.messages import Ask
from sglang_blend.engine.supervisor import FIRST_ANSWER_PATIENCE, Supervisor, SupervisorConfig
from sglang_blend.errors import EngineDied, EngineError
from sglang_blend.request import Answer, BatchLine, EngineFacts, Failure

FAST = SupervisorConfig(
    start_timeout_s=0.2, hang_timeout_s=0.2, max_restarts=6, first_backoff_s=0.001, check_interval_s=0.01
)


def line(custom_id: str) -> BatchLine:
    return BatchLine(1, 0, custom_id, "/v1/completions", {})


class FragileRun:
    """An `EngineRun`: "poison" kills it, "hang" makes it silent for ever, others take a moment.

    With `starts` False it dies at its start, with None it never comes to an end of it.
    """

    def __init__(
        self,
        *,
        starts: bool | None = True,
        dies_after: int | None = None,
        from_outside: bool = False,
        words: str = "killed by SIGKILL",
        may_pass: bool = False,
    ) -> None:
        self.asked: list[str] = []
        self.closed = False
        self._starts = starts
        self._from_outside, self._words, self._may_pass = from_outside, words, may_pass
        self._dies_after = dies_after
        self._dead = asyncio.Event()
        self._hangs = False
        self._at = time.monotonic()

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._at if self._hangs else 0.0

    async def ready(self) -> None:
        if self._starts is None:
            self._hangs = True
            await self._dead.wait()
        if not self._starts:
            raise EngineDied("no memory")

    def facts(self) -> EngineFacts:
        return EngineFacts({}, "cpu", 1, 100, 1, 8, "fcfs")

    async def died(self) -> None:
        await self._dead.wait()

    async def close(self) -> EngineDied:
        self.closed = True
        self._dead.set()
        return EngineDied(
            f"the engine died ({self._words})", from_outside=self._from_outside, may_pass=self._may_pass
        )

    async def answer(self, ask: Ask) -> Answer:
        line = ask.line
        self.asked.append(line.custom_id)
        if line.custom_id.startswith("hang"):
            self._hangs, self._at = True, time.monotonic()
        if line.custom_id.startswith("poison") or len(self.asked) == self._dies_after:
            self._dead.set()
        answering = asyncio.ensure_future(asyncio.sleep(3600 if self._hangs else 0.01))
        dying = asyncio.ensure_future(self._dead.wait())
        await asyncio.wait([answering, dying], return_when=asyncio.FIRST_COMPLETED)
        answering.cancel()
        dying.cancel()
        if self._dead.is_set():
            raise EngineDied("the engine died")
        return Answer(200, {"id": line.custom_id}, len(ask.token_ids), 0, 1)

    async def server_info(self) -> list[dict[str, Any]]:
        return [{"up": True}]

    async def flush_cache(self) -> bool:
        return True


class Runs:
    """Starts runs and remembers them; `make` gets the number of the run."""

    def __init__(self, make: Callable[[int], FragileRun] = lambda number: FragileRun()) -> None:
        self.all: list[FragileRun] = []
        self._make = make

    def next(self) -> FragileRun:
        self.all.append(self._make(len(self.all)))
        return self.all[-1]

    async def start(self) -> FragileRun:
        return self.next()


def supervised(
    runs: Runs, job: Callable[[Supervisor], Coroutine[Any, Any, Any]], config: SupervisorConfig = FAST
) -> Any:
    async def main() -> Any:
        async with Supervisor(runs.next(), runs.start, config) as engine:
            result = await asyncio.wait_for(job(engine), timeout=20)
        assert all(run.closed for run in runs.all), "an engine was left running"
        return result, engine

    return asyncio.run(main())


async def ask_all(engine: Supervisor, names: Sequence[str]) -> dict[str, Answer | Failure]:
    answers = await asyncio.gather(*(engine.answer(Ask(line(name), [1, 2])) for name in names))
    return dict(zip(names, answers, strict=True))


def codes(answers: dict[str, Answer | Failure]) -> dict[str, str | int]:
    return {n: a.code if isinstance(a, Failure) else a.status_code for n, a in answers.items()}


def test_an_engine_that_lives_is_asked_once_for_each_request() -> None:
    runs, names = Runs(), [f"r{i}" for i in range(50)]
    answers, engine = supervised(runs, lambda engine: ask_all(engine, names))
    assert codes(answers) == dict.fromkeys(names, 200)
    assert runs.all[0].asked == names
    assert (engine.num_restarts, engine.num_retries) == (0, 0)


def test_requests_in_flight_at_a_death_are_run_again() -> None:
    runs = Runs(lambda number: FragileRun(dies_after=5 if number == 0 else None))
    names = [f"r{i}" for i in range(20)]
    answers, engine = supervised(runs, lambda engine: ask_all(engine, names))
    assert codes(answers) == dict.fromkeys(names, 200)
    assert len(runs.all) == 2
    assert engine.num_restarts == 1
    assert engine.num_retries == 20


def test_a_poisonous_request_fails_and_all_others_are_answered() -> None:
    names = [f"r{i}" for i in range(30)] + ["poison"] + [f"s{i}" for i in range(30)]
    answers, engine = supervised(Runs(), lambda engine: ask_all(engine, names))
    assert codes(answers) == dict.fromkeys(names, 200) | {"poison": "engine_crash"}
    assert engine.num_restarts <= 5


def test_many_poisonous_requests_do_not_use_up_the_restarts() -> None:
    names = [f"poison{i}" for i in range(8)]
    answers, engine = supervised(Runs(), lambda engine: ask_all(engine, names))
    assert codes(answers) == dict.fromkeys(names, "engine_crash")
    assert engine.num_restarts > FAST.max_restarts


def test_a_request_at_which_the_engine_hangs_fails_like_one_that_kills_it() -> None:
    answers, _ = supervised(Runs(), lambda engine: ask_all(engine, ["a", "hang", "b"]))
    assert codes(answers) == {"a": 200, "hang": "engine_crash", "b": 200}


def test_an_idle_engine_does_not_hang() -> None:
    async def job(engine: Supervisor) -> Answer | Failure:
        await engine.answer(Ask(line("a"), [1]))
        await asyncio.sleep(3 * FAST.hang_timeout_s)
        return await engine.answer(Ask(line("b"), [1]))

    answer, engine = supervised(Runs(), job)
    assert answer.status_code == 200
    assert engine.num_restarts == 0


def test_an_engine_that_does_not_start_at_first_is_an_error_at_once() -> None:
    runs = Runs(lambda number: FragileRun(starts=False))
    with pytest.raises(EngineDied, match="died"):
        supervised(runs, lambda engine: ask_all(engine, ["a"]))
    assert len(runs.all) == 1
    assert runs.all[0].closed


def test_a_start_that_stands_still_is_an_error() -> None:
    runs = Runs(lambda number: FragileRun(starts=None))
    with pytest.raises(EngineError, match="start stood still") as caught:
        supervised(runs, lambda engine: ask_all(engine, ["a"]))
    assert caught.value.exit_code == 75
    assert all(run.closed for run in runs.all)


def test_a_first_start_that_fails_for_a_reason_that_may_pass_is_tried_again() -> None:
    """A port that was taken, a GPU that is not free yet: as after the first answer."""
    runs = Runs(lambda number: FragileRun(starts=number > 2, words=f"EADDRINUSE {number}", may_pass=True))
    answers, engine = supervised(runs, lambda engine: ask_all(engine, ["a"]))
    assert codes(answers) == {"a": 200}
    assert engine.num_restarts == 3


def test_a_first_start_that_fails_twice_with_the_same_words_is_given_up() -> None:
    runs = Runs(lambda number: FragileRun(starts=False, may_pass=True))
    with pytest.raises(EngineError, match="SIGKILL") as caught:
        supervised(runs, lambda engine: ask_all(engine, ["a"]))
    assert len(runs.all) == 2
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("num_in_flight", [2, 32])
def test_a_line_that_hangs_costs_three_hang_timeouts_at_most(num_in_flight: int) -> None:
    names = [f"r{i}" for i in range(num_in_flight - 1)] + ["hang"]
    start = time.monotonic()
    answers, engine = supervised(Runs(), lambda engine: ask_all(engine, names))
    assert codes(answers) == dict.fromkeys(names, 200) | {"hang": "engine_crash"}
    assert engine.num_restarts <= 3
    # Before the first answer there is three times the patience.
    assert time.monotonic() - start < (FIRST_ANSWER_PATIENCE + 2) * FAST.hang_timeout_s + 1.5


def test_time_in_which_the_job_itself_was_suspended_is_no_hang() -> None:
    """SIGSTOP, `docker pause`, a laptop that sleeps: the clock runs on, and the engine stood still too."""

    async def job(engine: Supervisor) -> Answer | Failure:
        slow = asyncio.create_task(engine.answer(Ask(line("a"), [1])))
        await asyncio.sleep(0)
        time.sleep(FIRST_ANSWER_PATIENCE * FAST.hang_timeout_s + 0.2)  # nothing of this process runs
        return await slow

    class Thawing(FragileRun):
        """Silent since it was frozen, as a real one is; it goes on soon after."""

        @property
        def silent_s(self) -> float:
            return time.monotonic() - self._at

        async def answer(self, ask: Ask) -> Answer:
            self._at = time.monotonic()
            await asyncio.sleep(0.1)
            await asyncio.sleep(0.05)
            return Answer(200, {"id": ask.line.custom_id}, 1, 0, 1)

    answer, engine = supervised(Runs(lambda number: Thawing()), job)
    assert answer.status_code == 200
    assert engine.num_restarts == 0


def test_a_restart_that_fails_is_tried_again() -> None:
    runs = Runs(lambda number: FragileRun(starts=number not in (1, 2), dies_after=1 if number == 0 else None))
    answers, engine = supervised(runs, lambda engine: ask_all(engine, ["a"]))
    assert codes(answers) == {"a": 200}
    assert engine.num_restarts == 3


def test_restarts_after_kills_from_outside_accuse_nobody() -> None:
    """Four engines are killed at the same lonely request, which the fifth answers."""
    runs = Runs(lambda number: FragileRun(dies_after=1 if number < 4 else None, from_outside=True))
    answers, engine = supervised(runs, lambda engine: ask_all(engine, ["a"]))
    assert codes(answers) == {"a": 200}
    assert engine.num_restarts == engine.num_retries == 4


def test_an_engine_that_never_comes_back_ends_the_job() -> None:
    runs = Runs(lambda number: FragileRun(starts=number == 0, dies_after=2))
    with pytest.raises(EngineError, match="finished no request in between"):
        supervised(runs, lambda engine: ask_all(engine, ["a", "b", "c"]))
    assert len(runs.all) == 1 + FAST.max_restarts


def test_restarts_are_counted_anew_after_progress() -> None:
    """Every run answers two requests and dies; the job needs more restarts than it has in a row."""
    runs = Runs(lambda number: FragileRun(dies_after=3))

    async def one_by_one(engine: Supervisor) -> dict[str, Answer | Failure]:
        return {name: await engine.answer(Ask(line(name), [1])) for name in (f"r{i}" for i in range(20))}

    answers, engine = supervised(runs, one_by_one)
    assert set(codes(answers).values()) == {200}
    assert engine.num_restarts > FAST.max_restarts


def test_a_start_that_raises_anything_ends_the_job_instead_of_waiting_for_ever() -> None:
    class Broken(Runs):
        async def start(self) -> FragileRun:
            raise RuntimeError("bug")

    with pytest.raises(EngineError, match="RuntimeError: bug"):
        supervised(Broken(lambda number: FragileRun(dies_after=1)), lambda engine: ask_all(engine, ["a"]))


def test_the_state_of_the_engine_can_be_asked_for() -> None:
    async def job(engine: Supervisor) -> Any:
        return await engine.server_info(), await engine.flush_cache(), engine.facts().kv_pool_tokens

    assert supervised(Runs(), job)[0] == ([{"up": True}], True, 100)


def test_cancelling_a_request_lets_the_engine_live() -> None:
    async def job(engine: Supervisor) -> Answer | Failure:
        slow = asyncio.create_task(engine.answer(Ask(line("a"), [1])))
        await asyncio.sleep(0)
        slow.cancel()
        return await engine.answer(Ask(line("b"), [1]))

    answer, engine = supervised(Runs(), job)
    assert answer.status_code == 200
    assert engine.num_restarts == 0
