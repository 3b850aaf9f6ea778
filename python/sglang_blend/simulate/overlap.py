"""Whether chunks of prefill beside decode pay on a calibrated machine: what `--overlap auto` takes.

Asked once, by `sglang-blend calibrate`. PD-multiplexing is taken only when it is named: not every model has a
split prefill.

A made job of compute density 1.2 with a third of its prompts shared is simulated in SGLang's three modes;
simulated numbers decide, nothing is measured here.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import NamedTuple

from sglang_blend.core import PlanConfig, make_schedule
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.errors import PlanError
from sglang_blend.simulate.engine_config import EngineConfig, Mode
from sglang_blend.simulate.simulated_job import SimulatedJob
from sglang_blend.simulate.simulator import simulate_schedule
from sglang_blend.simulate.synthesis import SynthesisedTrace, SynthesisSpec, synthesise

# `default` is SGLang without flags.
_MODES: tuple[Mode, ...] = ("default", "mixed")
_DENSITY, _SHARING = 1.2, 0.33
# A mode has to gain so much over one that changes less.
_LEAST_GAIN = 1.03


class OverlapChoice(NamedTuple):
    """The mode, why, and the simulated makespans in seconds that say so."""

    mode: Mode
    reason: str
    makespan_s: dict[Mode, float]


def choose_overlap(cost: RooflineCost, *, num_requests: int = 3000) -> OverlapChoice:
    """The fastest mode, preferring separate steps where they differ by less than 3%.

    Args:
        cost: of a calibrated machine.
    """
    if cost.hardware.measured is None:
        return OverlapChoice("default", "this machine is not calibrated", {})
    trace = _made_job(cost, num_requests)
    if trace is None:
        return OverlapChoice("default", "no blend of long outputs and long prompts suits this model", {})
    schedule = make_schedule(trace.table, cost, PlanConfig(order="stationary"))
    job = replace(SimulatedJob.from_table(trace.table, trace.output_len), output_len=trace.output_len)
    seconds: dict[Mode, float] = {}
    for mode in _MODES:
        engine = EngineConfig(mode=mode, admission="peak", eviction="demand", paced=mode == "mixed")
        seconds[mode] = simulate_schedule(job, schedule, cost, engine.on(cost.hardware)).makespan_s
    best: Mode = "default"
    for mode in _MODES:
        if seconds[mode] * _LEAST_GAIN < seconds[best]:
            best = mode
    gains = ", ".join(f"{mode} {seconds['default'] / seconds[mode]:.2f} x" for mode in _MODES[1:])
    return OverlapChoice(best, f"simulated against separate steps: {gains}", seconds)


def _made_job(cost: RooflineCost, num_requests: int) -> SynthesisedTrace | None:
    """The first source whose own density leaves room for the wanted one."""
    for source in ("burstgpt", "sharegpt", "azure"):
        spec = SynthesisSpec(density=_DENSITY, sharing=_SHARING, num_requests=num_requests, source=source)
        with contextlib.suppress(PlanError):
            return synthesise(cost, spec, seed=0)
    return None
