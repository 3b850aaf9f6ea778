"""The state and the loop of a simulated engine, iteration by iteration; `simulator` runs it.

Every step is timed by `StepTimer`; steps in which nothing can happen but decode are taken many at once,
exactly as if one by one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.cost.bounds import bounds_of
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.errors import PlanError
from sglang_blend.simulate.admission import Admission
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.feed import Feed
from sglang_blend.simulate.kv_pool import KvPool
from sglang_blend.simulate.pacing import JobWork, Pacer
from sglang_blend.simulate.prefill_queue import Prefill, PrefillQueue
from sglang_blend.simulate.running_batch import Forecast, RunningBatch
from sglang_blend.simulate.shared_readers import SharedReaders
from sglang_blend.simulate.simulated_job import SimulatedJob, Simulation
from sglang_blend.simulate.step_time import KvRead, StepTimer
from sglang_blend.simulate.timeline import StepRow, Timeline


class EngineCounts(NamedTuple):
    """Tokens and retractions of one engine, as in `Simulation`."""

    computed_tokens: int
    recomputed_tokens: int
    output_tokens: int
    retractions: int


class SimulatedEngine:
    """The engine's state and its loop; use `simulate` unless you want to look inside."""

    def __init__(
        self,
        job: SimulatedJob,
        feed: Feed,
        cost: RooflineCost,
        config: EngineConfig,
        *,
        record_timeline: bool = False,
        is_left: NDArray[np.bool_] | None = None,
        work: JobWork | None = None,
    ) -> None:
        """Args: work: of the job and cost, when it is there already."""
        self.config = config
        self.pool = KvPool(job.tree, cost.kv_pool_tokens, config.eviction)
        self.running = RunningBatch(cost.shape.window)
        self.shared = SharedReaders(job.tree, cost)
        self.forecast = Forecast()
        self.admission = Admission(config)
        self.timer = StepTimer(cost, config)
        work = JobWork.of(job.tree, job.est_output_len, cost) if work is None else work
        self.pacer = Pacer(work, cost, config, self.timer)
        self.feed = feed
        self._budget_tokens = config.budget_tokens(cost)
        self._job = job
        self._cost = cost
        by_mode = {"default": self._step_default, "pdmux": self._step_pdmux}
        self.step = by_mode.get(config.mode, self._step_mixed)  # one step of the engine
        requests = job.requests
        self._prompt_len, self._private_prompt = requests.prompt_len, requests.private_len
        self._output_len, self._cap = requests.output_len, requests.cap
        self._admission_len = requests.admission_len
        self._check_sizes()
        # By request, and only of those that came here: one of many engines sees a small part of the job.
        self.generated: defaultdict[int, int] = defaultdict(int)
        self.finished: defaultdict[int, int] = defaultdict(int)
        self._prefill = PrefillQueue(self.pool, config.new_prefixes)
        self._blocked = False
        self._retry_at = 0
        self._refresh_at = -1
        self._budget = 0.0
        self._split = 0.5
        self._credit_s = 0.0  # pdmux: prefill time not used, or overdrawn, in the step before
        self.now_s = 0.0
        self._last_admit_s = 0.0
        self._used_token_s = 0.0
        self._num_steps = 0
        self._num_done = 0
        self._computed = self._recomputed = self._retractions = 0
        self._rows: list[StepRow] | None = [] if record_timeline else None
        self._is_left: list[bool] | None = None if is_left is None else is_left.tolist()
        self._left_kv_tokens = self._num_left = 0  # of running requests, for the timeline

    def _check_sizes(self) -> None:
        need = self._job.tree.prompt_len + np.maximum(self._job.output_len, 1)
        if need.size and need.max() >= self.pool.capacity:
            worst = int(need.argmax())
            raise PlanError(
                f"request {worst} needs {int(need[worst])} tokens of KV, the pool holds "
                f"{self.pool.capacity}; "
                "use larger hardware, more tp or shorter requests"
            )

    def run(self) -> None:
        """Steps until every request has finished."""
        while self._num_done < self._job.n:
            self.step()

    @property
    def has_work(self) -> bool:
        """Whether a request runs or waits here."""
        return bool(self.forecast.size) or self.feed.peek() is not None

    # ---- one step of each kind of engine

    def _step_default(self) -> None:
        tokens, attention_s, ready = self._collect_prefill(self._budget_tokens)
        if not tokens:
            self._decode_run()
            return
        self._finish_step(self.timer.step_s(tokens, len(ready), attention_s, 0.0), tokens, attention_s)
        self._join(ready)

    def _step_mixed(self) -> None:
        self._make_decode_room()
        tokens, attention_s = 0, 0.0
        ready: list[int] = []
        if self._prefill or self._may_admit():
            tokens, attention_s, ready = self._collect_prefill(self._prefill_budget())
        if not tokens:
            self._decode_run()
            return
        size = self.running.size
        kv_s = self.timer.kv_s(self._kv_read()) if size else 0.0
        seconds = self.timer.step_s(tokens + size, size + len(ready), attention_s, kv_s)
        if size:
            self.pool.grow(size)
        self._finish_step(seconds, tokens, attention_s, decode_size=size)
        if size:
            self._advance(1)
        self._join(ready)

    def _step_pdmux(self) -> None:
        self._make_decode_room()
        size = self.running.size
        if not size:
            self._credit_s = 0.0
            tokens, attention_s, complete = self._collect_prefill(self._budget_tokens)
            seconds = self.timer.step_s(tokens, len(complete), attention_s, 0.0)
            self._finish_step(seconds, tokens, attention_s)
            self._join(complete)
            return
        self._begin_pass()
        if not self._has_prefill():
            self._credit_s = 0.0
            self._decode_run()
            return
        self._refresh()
        decode_s = self.timer.muxed_decode_s(size, self._kv_read(), self._split)
        self._credit_s += decode_s
        tokens, prefill_s = 0, 0.0
        ready: list[int] = []
        while self._credit_s > 0.0 and self._has_prefill():
            job = self._prefill.head
            each_s = self.timer.muxed_prefill_s(1, self.timer.attention_s(job.done, 1), self._split)
            piece = min(job.left, max(1, int(self._credit_s / each_s)), self._budget_tokens)
            attention_s = self.timer.attention_s(job.done, piece)
            self._credit_s -= self.timer.muxed_prefill_s(piece, attention_s, self._split)
            tokens += piece
            prefill_s += attention_s
            self.pacer.on_prefill(piece, attention_s)
            ready += self._prefill.advance(piece)
        self._credit_s = min(self._credit_s, 0.0)
        self.pool.grow(size)
        self._finish_step(decode_s, tokens, prefill_s, decode_size=size)
        self._advance(1)
        self._join(ready)

    def _decode_run(self) -> None:
        """Decodes as many steps as nothing else can happen in."""
        self._make_decode_room()
        running = self.running
        size = running.size
        if not size:
            return  # retraction emptied the batch, the next step admits
        steps = min(running.next_event(), self.pool.available // size)
        if self._blocked:
            steps = min(steps, max(1, self._retry_at - running.step_no))
        seconds = self.timer.decode_run_s(steps, size, self._kv_read())
        self.pool.grow(size * steps)
        self._finish_step(seconds, 0, decode_size=size, num_steps=steps)
        self._advance(steps)

    # ---- parts of a step

    def _kv_read(self) -> KvRead:
        running = self.running
        return KvRead(
            running.kv_tokens + running.size - self.shared.saved_tokens,
            running.window_tokens + running.num_growing,
            running.size,
            running.num_growing,
        )

    def _prefill_budget(self) -> int:
        size = self.running.size
        if not self.config.paced:
            return self._budget_tokens - size
        self._refresh()
        wanted = max(self._budget - size, self.config.min_prefill_tokens)
        return int(min(wanted, max(self._budget_tokens - size, self.config.min_prefill_tokens)))

    def _refresh(self) -> None:
        """Looks at the remaining work again, every few steps."""
        if self._num_steps < self._refresh_at:
            return
        self._refresh_at = self._num_steps + self.config.refresh_steps
        rest = self.pacer.remaining(self.forecast, self.running.step_no)
        if self.config.mode == "pdmux":
            self._split = self.pacer.split(rest, self.running.size)
        else:
            self._budget = self.pacer.token_budget(rest)

    def _collect_prefill(self, budget: int) -> tuple[int, float, list[int]]:
        """Takes prefill work for a step: tokens, seconds of attention, requests whose prompt is then
        complete.
        """
        tokens, attention_s = 0, 0.0
        ready: list[int] = []
        self._begin_pass()
        while tokens < budget and self._has_prefill():
            job = self._prefill.head
            piece = min(job.left, budget - tokens)
            piece_s = self.timer.attention_s(job.done, piece)
            tokens += piece
            attention_s += piece_s
            self.pacer.on_prefill(piece, piece_s)
            ready += self._prefill.advance(piece)
        return tokens, attention_s, ready

    def _has_prefill(self) -> bool:
        """Whether a prompt can go on in this step, after admitting whoever may start."""
        while not self._prefill.has_head:
            if not self._admit_next():
                return False
        return True

    def _begin_pass(self) -> None:
        self.feed.arrange(self.pool)
        self._prefill.begin_pass()

    def _may_admit(self) -> bool:
        """Whether it is worth asking: a request waits, and something has changed since one was refused."""
        refused = self._blocked and self.running.step_no < self._retry_at and self.forecast.size
        return not refused and self.feed.peek() is not None

    def _admit_next(self) -> bool:
        """Admits the next waiting request, if there is one and it fits."""
        if not self._may_admit():
            return False
        request = self.feed.peek()
        assert request is not None, "a request waits"
        step_no = self.running.step_no
        generated = self.generated[request]
        kv_len = self._prompt_len[request] + generated
        private_len = self._private_prompt[request] + generated
        cached, relock = self.pool.match(request)
        need = kv_len - cached
        copied, waits_for = self._prefill.in_flight(request)
        est_steps = self._admission_len[request] - generated - 1
        if est_steps <= 0 and generated:
            est_steps = max(generated // 8, 8)
        cap_steps = max(self._cap[request] - generated - 1, 0)
        alone = not self.forecast.size
        fits = self.forecast.size < self.config.max_running and self.admission.fits(
            self.pool,
            self.forecast,
            step_no=step_no,
            request=request,
            need=need,
            copied=copied,
            relock=relock,
            kv_len=kv_len,
            private_len=private_len,
            est_steps=max(est_steps, 0),
            cap_steps=cap_steps,
            generated=generated,
        )
        if (
            not fits and alone
        ):  # nothing will ever make more room: start it and let retraction sort out the rest
            self.forecast.add(
                request,
                step_no=step_no,
                private_len=private_len,
                kv_len=kv_len,
                est_steps=max(est_steps, 0),
                cap_steps=cap_steps,
                generated=generated,
            )
            fits = True
        self._blocked = not fits
        if not fits:
            self._retry_at = step_no + self.config.retry_steps
            return False
        self.feed.pop(request)
        self.pool.acquire(request, private_len + copied)
        self.pacer.on_admit(request)
        left = max(need + copied, 1)  # a fully cached prompt still computes its last token
        if generated:
            self._recomputed += left
        else:
            self._computed += need + copied
        self._prefill.add(Prefill(request, kv_len - left, left, waits_for), copied)
        self._last_admit_s = self.now_s
        return True

    def _join(self, ready: list[int]) -> None:
        """Prompts that are complete give their first token; the requests decode on or are done."""
        for request in ready:
            self._prefill.complete(request)
            kv_len = self._prompt_len[request] + self.generated[request]
            self.generated[request] = min(self.generated[request] + 1, self._output_len[request])
            steps = self._output_len[request] - self.generated[request]
            if steps > 0:
                self.running.join(request, kv_len, steps)
                self._account_left(request, kv_len, 1)
                self.shared.join(request)
            else:
                self._finish(request, kv_len)

    def _advance(self, num_steps: int) -> None:
        self.admission.on_decode(num_steps)
        self._left_kv_tokens += num_steps * self._num_left
        for request, kv_len in self.running.advance(num_steps):
            self._account_left(request, -kv_len, -1)
            self.generated[request] = self._output_len[request]
            self.shared.leave(request)
            self._finish(request, kv_len)

    def _account_left(self, request: int, kv_tokens: int, num_requests: int) -> None:
        if self._is_left is not None and self._is_left[request]:
            self._left_kv_tokens += kv_tokens
            self._num_left += num_requests

    def _finish(self, request: int, kv_len: int) -> None:
        self.pool.release(request, self._private_len(request, kv_len), keep=True)
        self.forecast.remove(request)
        self.feed.release(request)
        self.finished[request] += 1
        self._num_done += 1
        self._blocked = False

    def _private_len(self, request: int, kv_len: int) -> int:
        return kv_len - self._prompt_len[request] + self._private_prompt[request]

    def _make_decode_room(self) -> None:
        """Retracts until the running batch can decode a step."""
        if self.pool.available >= self.running.size:
            return
        while self.pool.available < self.running.size:
            request = self.running.retraction_victim(self.generated)
            self.generated[request] += self.running.steps_since_join(request)
            kv_len = self.running.remove(request)
            self._account_left(request, -kv_len, -1)
            self.shared.leave(request)
            self.pool.release(request, self._private_len(request, kv_len), keep=False)
            self.forecast.remove(request)
            self.pacer.on_retract(request)
            self.feed.give_back(request)
            self._retractions += 1
        generated = sum(self.generated[r] for r in self.forecast.requests) + self.running.steps_since_joins()
        caps = sum(self._cap[r] for r in self.forecast.requests)
        self.admission.on_retract(generated, caps, self.running.size)
        self._blocked = True
        self._retry_at = self.running.step_no + self.config.retry_steps

    def _finish_step(
        self,
        seconds: float,
        prefill_tokens: int,
        attention_s: float = 0.0,
        *,
        decode_size: int = 0,
        num_steps: int = 1,
    ) -> None:
        self.now_s += seconds
        self._num_steps += num_steps
        self._used_token_s += self.pool.in_use * seconds
        if self._rows is not None:
            self._rows.append(self._row(prefill_tokens, attention_s, decode_size, num_steps))

    def _row(self, prefill_tokens: int, attention_s: float, decode_size: int, num_steps: int) -> StepRow:
        """What just ended, for the timeline; before the running batch moves on."""
        tokens = prefill_tokens + decode_size
        kv_read_s = 0.0
        if decode_size:
            read = self._kv_read()
            growth_s = self.timer.kv_s(KvRead(read.full_growth, read.windowed_growth, 0, 0))
            kv_read_s = num_steps * self.timer.kv_s(read) + growth_s * num_steps * (num_steps - 1) / 2.0
        return (
            self.now_s,
            self.running.size,
            prefill_tokens,
            self.pool.in_use,
            num_steps,
            decode_size * num_steps,
            self._job.n - self._num_done - self.forecast.size,
            num_steps * self.timer.gemm_s(tokens, decode_size) + attention_s,
            kv_read_s,
            num_steps * self.timer.weight_s(tokens),
            self._left_kv_tokens / max(self.running.kv_tokens, 1),
        )

    # ---- result

    @property
    def counts(self) -> EngineCounts:
        """What was done so far."""
        return EngineCounts(self._computed, self._recomputed, sum(self.generated.values()), self._retractions)

    def result(self) -> Simulation:
        """The record of a finished run."""
        job = self._job
        timeline = None
        if self._rows is not None:
            timeline = Timeline.of(self._rows, has_sides=self._is_left is not None)
        total = int(job.tree.prompt_len.sum())
        possible = total - job.tree.unique_tokens
        return Simulation(
            makespan_s=self.now_s,
            bounds=bounds_of(job.tree, job.output_len, self._cost, self.config.interference),
            **self.counts._asdict(),
            sharing_kept=(total - self._computed) / possible if possible else 1.0,
            num_steps=self._num_steps,
            tail_s=self.now_s - self._last_admit_s,
            mean_kv_occupancy=self._used_token_s / (self.pool.capacity * self.now_s) if self.now_s else 0.0,
            timeline=timeline,
        )
