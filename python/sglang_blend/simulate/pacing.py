"""How much prefill to put beside decode: the token budget n* and the split of the multiprocessors.

Both come from the remaining work, of waiting requests (estimated) and of admitted ones: a batch that keeps
the remaining
compute and the remaining KV reads in step finishes both at once. Pacing from the current step's memory time
alone does
not work: it is stable at any occupancy and never fills the pool.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sglang_blend.core.cost_model import FloatArray
from sglang_blend.core.pacing import token_budget
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.segments import SegmentTree
from sglang_blend.cost.sm_split import SplitWork, best_share
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.running_batch import Forecast
from sglang_blend.simulate.step_time import StepTimer

# Part of the pool that the remaining decode steps of pdmux are assumed to fill.
_POOL_FILL = 0.9


class Remaining(NamedTuple):
    """Work to go: prefill seconds, output tokens, KV tokens to read in decode, the longest running output."""

    prefill_s: float
    output_tokens: float
    token_steps: float
    longest_len: float


class JobWork(NamedTuple):
    """What is expected of a job; made once however many engines run it.

    Attributes:
        est_output_len, token_steps: of each request, tokens, and KV tokens times decode steps.
        output_tokens, num_token_steps: their sums.
        prefill_s: compute of all prompts, shared segments once.
        read_s: KV reads of a token-step, mean over the job.
    """

    est_output_len: list[float]
    token_steps: list[float]
    output_tokens: float
    num_token_steps: float
    prefill_s: float
    read_s: float

    @classmethod
    def of(cls, tree: SegmentTree, est_output_len: FloatArray, cost: RooflineCost) -> JobWork:
        """Sums it up."""
        steps = tree.prompt_len * est_output_len + est_output_len**2 / 2.0
        read_len = tree.read_len(cost, est_output_len)
        memory = float(cost.memory_s(read_len, est_output_len).sum())  # type: ignore[arg-type]
        return cls(
            est_output_len=est_output_len.tolist(),
            token_steps=steps.tolist(),
            output_tokens=float(est_output_len.sum()),
            num_token_steps=float(steps.sum()),
            prefill_s=tree.prefill_compute_s(cost),
            read_s=memory / max(float(steps.sum()), 1.0),
        )

    def part(self, ratio: float) -> JobWork:
        """What one of several engines has to do of it, at the job's density."""
        return self._replace(
            output_tokens=ratio * self.output_tokens,
            num_token_steps=ratio * self.num_token_steps,
            prefill_s=ratio * self.prefill_s,
        )


class Pacer:
    """Keeps the remaining work and turns it into a token budget or a split."""

    def __init__(self, work: JobWork, cost: RooflineCost, config: EngineConfig, timer: StepTimer) -> None:
        self._config = config
        self._token_s, self._decode_token_s = cost.token_s, cost.decode_token_s
        self._kv_pool_tokens = cost.kv_pool_tokens
        self._timer = timer
        self._est, self._token_steps = work.est_output_len, work.token_steps
        self._read_s = work.read_s
        self._prefill_s = work.prefill_s
        self._queued_output = work.output_tokens
        self._queued_steps = work.num_token_steps

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
        return Remaining(self._prefill_s, output, token_steps, longest)

    def token_budget(self, rest: Remaining) -> float:
        """n*: tokens of a step, decode included, so that compute and KV reads run out together."""
        compute_s = rest.prefill_s + rest.output_tokens * self._decode_token_s
        memory_s = rest.token_steps * self._read_s
        return self._config.pace_factor * token_budget(
            # A token that decode samples takes the output layer with it, so it counts as one token here too.
            remaining_compute_s=rest.prefill_s + rest.output_tokens * self._token_s,
            token_compute_s=self._token_s,
            remaining_token_steps=rest.token_steps,
            longest_remaining_len=rest.longest_len,
            kv_pool_tokens=self._kv_pool_tokens,
            root_density=compute_s / memory_s if memory_s else np.inf,
        )

    def split(self, rest: Remaining, batch_size: int) -> float:
        """Share of the multiprocessors for decode beside prefill (pdmux)."""
        steps = max(rest.token_steps / (_POOL_FILL * self._kv_pool_tokens), rest.longest_len, 1.0)
        work = SplitWork(
            prefill_s=rest.prefill_s,
            decode_gemm_s=rest.output_tokens * self._decode_token_s,
            weight_read_s=steps * self._timer.weight_s(batch_size),
            kv_read_s=rest.token_steps * self._read_s,
        )
        shares = self._config.pdmux_splits
        return shares[best_share(work, shares, self._config.pdmux_bandwidth_gain)]
