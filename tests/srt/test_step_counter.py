"""Steps of a scheduler reach the process that owns it, also those that make no token."""

from __future__ import annotations

import multiprocessing

from sglang_blend.srt.step_counter import StepCounter, ticker


def _step(path: str, num_steps: int) -> None:
    tick = ticker(path)
    for _ in range(num_steps):
        tick()


def test_steps_of_another_process_are_seen() -> None:
    counter = StepCounter()
    seen = {counter.value()}
    for _ in range(3):
        process = multiprocessing.get_context("spawn").Process(target=_step, args=(counter.path, 5))
        process.start()
        process.join()
        assert process.exitcode == 0
        seen.add(counter.value())
    assert len(seen) == 4


def test_without_a_counter_nothing_happens() -> None:
    ticker(None)()
    ticker("/proc/1/fd/99999")()
