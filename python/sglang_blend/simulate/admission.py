"""When the simulated engine lets a request start: by expected peak, by SGLang's ratio, or by reserving its
cap.
"""

from __future__ import annotations

from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.kv_pool import KvPool
from sglang_blend.simulate.running_batch import Forecast


class Admission:
    """Decides about one request at a time; `ratio` has SGLang's new_token_ratio as its state.

    Attributes:
        new_token_ratio: share of the running requests' remaining caps that is held back (ratio admission).
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self.new_token_ratio = config.ratio_start
        self._decay = (config.ratio_start - config.ratio_end) / config.ratio_decay_steps

    def on_decode(self, num_steps: int) -> None:
        """The ratio falls with every decode step (SGLang 0.5.17, scheduler.update_running_batch)."""
        self.new_token_ratio = max(self.new_token_ratio - num_steps * self._decay, self._config.ratio_end)

    def on_retract(self, generated: float, caps: float, num_running: int) -> None:
        """After a retraction the ratio follows the running batch (SGLang 0.5.17,
        ScheduleBatch.retract_decode).
        """
        self.new_token_ratio = min(1.0, (generated + 20.0 * num_running) / max(caps, 1.0))

    def fits(
        self,
        pool: KvPool,
        forecast: Forecast,
        *,
        step_no: int,
        request: int,
        need: int,
        copied: int,
        relock: int,
        kv_len: int,
        private_len: int,
        est_steps: float,
        cap_steps: float,
        generated: int,
    ) -> bool:
        """Whether the request may start now; on True it has been added to the forecast.

        Args:
            need: tokens to take from the pool at once (missing segments and the private prompt).
            copied: tokens to take for as long as the prompt is computed.
            relock: evictable tokens of the request's prefix that would be locked.
            kv_len, private_len: tokens of its KV after prefill, and those of them that nobody shares.
            est_steps, cap_steps: expected and largest number of decode steps.
            generated: tokens it generated before a retraction.
        """
        config = self._config
        room = pool.available - relock - copied
        # One token for every running request, so that the next decode step needs no retraction.
        if need + forecast.size > room:
            return False
        if config.admission != "peak":
            ratio = self.new_token_ratio if config.admission == "ratio" else 1.0
            clip = float(config.clip_new_tokens)
            if need + min(cap_steps, clip) + ratio * forecast.reserved(step_no, clip) > room:
                return False
        forecast.add(
            request,
            step_no=step_no,
            private_len=private_len,
            kv_len=kv_len,
            est_steps=est_steps,
            cap_steps=cap_steps,
            generated=generated,
        )
        if config.admission != "peak":
            return True
        shared = pool.locked + relock + (need - private_len)
        if forecast.fits(step_no, pool.capacity - shared):
            return True
        forecast.remove(request)
        return False
