"""How much prefill to put beside decode: the token budget n* and the split of the multiprocessors.

Both come from the remaining work, of waiting requests (estimated) and of admitted ones: a batch that keeps the remaining
compute and the remaining KV reads in step finishes both at once. Pacing from the current step's memory time alone does
not work: it is stable at any occupancy and never fills the pool.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sglang_blend.perf.arrays import FloatArray
from sglang_blend.perf.engine_config import EngineConfig
from sglang_blend.perf.roofline import RooflineCost
from sglang_blend.perf.running_batch import Forecast
from sglang_blend.perf.segments import SegmentTree
from sglang_blend.perf.step_time import StepTimer


class Remaining(NamedTuple):
    """Work to go: prefill seconds, output tokens, KV seconds and the decode steps it takes with a full pool."""

    prefill_s: float
    output_tokens: float
    memory_s: float
    steps: float


class Pacer:
    """Keeps the remaining work and turns it into a token budget or a split."""

    def __init__(
        self, tree: SegmentTree, est_output_len: FloatArray, cost: RooflineCost, config: EngineConfig, timer: StepTimer
    ) -> None:
        self._config = config
        self._token_s = cost.token_s
        self._pool = float(cost.kv_pool_tokens) * config.pool_fill
        self._timer = timer
        self._est: list[float] = est_output_len.tolist()
        steps = tree.prompt_len * est_output_len + est_output_len**2 / 2.0
        self._token_steps: list[float] = steps.tolist()
        memory = float(cost.memory_s(tree.prompt_len, est_output_len).sum())  # type: ignore[arg-type]
        self._read_s = memory / max(float(steps.sum()), 1.0)  # mean over the job; exact without windows
        self._prefill_s = tree.prefill_compute_s(cost)
        self._queued_output = float(est_output_len.sum())
        self._queued_steps = float(steps.sum())

    def on_admit(self, request: int) -> None:
        """Moves a request's decode work from the waiting queue to the admitted ones."""
        self._queued_output -= self._est[request]
        self._queued_steps -= self._token_steps[request]

    def on_retract(self, request: int) -> None:
        """Puts a request's decode work back."""
        self._queued_output += self._est[request]
        self._queued_steps += self._token_steps[request]

    def on_prefill(self, num_tokens: int, attention_s: float) -> None:
        """Takes done prefill off the remaining compute."""
        self._prefill_s = max(0.0, self._prefill_s - num_tokens * self._token_s - attention_s)

    def remaining(self, forecast: Forecast, step_no: int) -> Remaining:
        """Adds what the admitted requests have to go."""
        rem = forecast.remaining(step_no)
        output = max(self._queued_output, 0.0)
        token_steps = max(self._queued_steps, 0.0)
        longest = 1.0
        if rem.size:
            output += float(rem.sum())
            token_steps += float(np.dot(forecast.kv_lens(step_no) + rem / 2.0, rem))
            longest = float(rem.max())
        return Remaining(self._prefill_s, output, token_steps * self._read_s, max(token_steps / self._pool, longest, 1.0))

    def token_budget(self, rest: Remaining) -> float:
        """n* = theta x remaining compute in tokens / remaining steps, decode tokens included."""
        compute_s = rest.prefill_s + rest.output_tokens * self._token_s
        theta = self._config.theta
        if theta is None:
            density = compute_s / rest.memory_s if rest.memory_s else np.inf
            theta = 0.9 if density > 1.3 else 1.15 if density < 1.0 else 1.0
        return theta * compute_s / self._token_s / rest.steps

    def split(self, rest: Remaining, batch_size: int) -> float:
        """Share of the multiprocessors for decode beside prefill (pdmux)."""
        decode_s = rest.output_tokens * self._token_s
        weights_s = rest.steps * self._timer.weight_s(batch_size)
        best, best_s = 1.0, np.inf
        for share in self._config.pdmux_splits:
            bandwidth = min(1.0, self._config.pdmux_bandwidth_gain * share)
            decode = max(decode_s / share, weights_s / bandwidth) + rest.memory_s / bandwidth
            prefill = rest.prefill_s / (1.0 - share)
            seconds = max(decode, prefill) + 0.1 * min(decode, prefill)
            if seconds < best_s:
                best, best_s = share, seconds
        return best
