"""The state and the loop of the modelled engine, step by step as SGLang's scheduler; `simulated_job` runs it.

Every step is timed by `StepTimer`; steps in which nothing can happen but decode are taken many at once,
exactly as if one by one. Who is admitted decide its `Rules`.

SGLang 0.5.17: `Scheduler.get_next_batch_to_run`, `_get_new_batch_prefill_raw`, `update_running_batch`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.cost.bounds import bounds_of
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.sm_split import best_share
from sglang_blend.errors import PlanError
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.host import PlannedHint, PlannedRules
from sglang_blend.simulate.kv_pool import KvPool
from sglang_blend.simulate.rules import Rules, Source
from sglang_blend.simulate.running_batch import RunningBatch
from sglang_blend.simulate.shared_readers import SharedReaders
from sglang_blend.simulate.simulated_job import SimulatedJob, Simulation
from sglang_blend.simulate.step_time import KvRead, StepTimer
from sglang_blend.simulate.stock import StockRules
from sglang_blend.simulate.timeline import StepRow, Timeline


class EngineCounts(NamedTuple):
    """Tokens and retractions of one engine, as in `Simulation`."""

    computed_tokens: int
    recomputed_tokens: int
    output_tokens: int
    retractions: int


class _Prompt:
    """An admitted request whose prompt is being computed: tokens done (or cached), to go, and of a copy."""

    __slots__ = ("copy", "done", "left", "request")

    def __init__(self, request: int, done: int, left: int, copy: int) -> None:
        self.request = request
        self.done = done
        self.left = left
        self.copy = copy


class SimulatedEngine:
    """The engine's state and its loop; use `simulate` unless you want to look inside."""

    def __init__(
        self,
        job: SimulatedJob,
        source: Source,
        cost: RooflineCost,
        config: EngineConfig,
        *,
        hints: PlannedHint | None = None,
        record_timeline: bool = False,
        is_left: NDArray[np.bool_] | None = None,
    ) -> None:
        """Nothing runs.

        Args:
            hints: of a plan, for admission by expected peak; None where stock rules decide.
        """
        self.config = config
        self.pool = KvPool(job.tree, cost.kv_pool_tokens, config.eviction)
        self.running = RunningBatch(cost.shape.window)
        self.shared = SharedReaders(job.tree, cost)
        self.timer = StepTimer(cost, config)
        self._budget_tokens = config.budget_tokens(cost)
        self._job = job
        self._cost = cost
        by_mode = {"default": self._step_default, "pdmux": self._step_pdmux}
        self.step = by_mode.get(config.mode, self._step_mixed)  # one step of the engine
        requests = job.requests
        self._prompt_len, self._private_prompt = requests.prompt_len, requests.private_len
        self._output_len, self._cap = requests.output_len, requests.cap
        self._check_sizes()
        # By request, and only of those that came here: one of many engines sees a small part of the job.
        self.generated: defaultdict[int, int] = defaultdict(int)
        self.finished: defaultdict[int, int] = defaultdict(int)
        self.rules: Rules
        if config.admission == "peak":
            assert hints is not None, "the plan says what requests carry"
            self.rules = PlannedRules(self.pool, source, requests, hints, cost, self, paced=config.paced)
        else:
            self.rules = StockRules(self.pool, source, requests, job.tree, config, self.generated)
        self._keeps_retracted = config.admission == "peak" and config.eviction == "demand"
        self._prompts: deque[_Prompt] = deque()  # first come, first computed
        self._admitted: set[int] = set()
        self._ended_in_decode = False
        self._refresh_at = 0
        self._split = config.pdmux_splits[-1]
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
        return bool(self._admitted) or self.rules.has_waiting

    def count_generated(self, requests: Iterable[int]) -> list[int]:
        """Output tokens so far of each of these requests; see `host.Progress`."""
        return self.running.count_generated(requests, self.generated)

    # ---- one step of each kind of engine

    def _step_default(self) -> None:
        tokens, attention_s, ready = self._compute_prompts(0)
        if not tokens:
            self._decode_run()
            return
        self._finish_step(self.timer.step_s(tokens, len(ready), attention_s, 0.0), tokens, attention_s)
        self._join(ready)

    def _step_mixed(self) -> None:
        self._make_decode_room()
        size = self.running.size
        tokens, attention_s, ready = self._compute_prompts(size)
        if not tokens:
            self._decode_run()
            return
        kv_s = self.timer.kv_s(self._kv_read()) if size else 0.0
        seconds = self.timer.step_s(tokens + size, size + len(ready), attention_s, kv_s)
        if size:
            self.pool.grow(size)
        self._finish_step(seconds, tokens, attention_s, decode_size=size)
        if size:
            self._advance(1)
            self._see_who_ended()
        self._join(ready)

    def _step_pdmux(self) -> None:
        self._make_decode_room()
        size = self.running.size
        if not size:
            self._credit_s = 0.0
            tokens, attention_s, complete = self._compute_prompts(0)
            seconds = self.timer.step_s(tokens, len(complete), attention_s, 0.0)
            self._finish_step(seconds, tokens, attention_s)
            self._join(complete)
            return
        self._begin_pass(0)
        if not self._has_prompt():
            self._credit_s = 0.0
            self._decode_run()
            return
        self._divide_device()
        decode_s = self.timer.muxed_decode_s(size, self._kv_read(), self._split)
        self._credit_s += decode_s
        tokens, prefill_s = 0, 0.0
        ready: list[_Prompt] = []
        while self._credit_s > 0.0 and self._has_prompt():
            prompt = self._prompts[0]
            each_s = self.timer.muxed_prefill_s(1, self.timer.attention_s(prompt.done, 1), self._split)
            piece = min(prompt.left, max(1, int(self._credit_s / each_s)), self._budget_tokens)
            attention_s = self.timer.attention_s(prompt.done, piece)
            self._credit_s -= self.timer.muxed_prefill_s(piece, attention_s, self._split)
            tokens += piece
            prefill_s += attention_s
            self._advance_prompt(piece, ready)
        self._credit_s = min(self._credit_s, 0.0)
        self.pool.grow(size)
        self._finish_step(decode_s, tokens, prefill_s, decode_size=size)
        self._advance(1)
        self._see_who_ended()
        self._join(ready)

    def _decode_run(self) -> None:
        """Decodes as many steps as nothing else can happen in."""
        self._see_who_ended()
        self._make_decode_room()
        running = self.running
        size = running.size
        if not size:
            return  # retraction emptied the batch, the next step admits
        asks_again = not self.rules.is_full and self.rules.has_waiting
        steps = 1 if asks_again else min(running.next_event(), self.pool.available // size)
        seconds = self.timer.decode_run_s(steps, size, self._kv_read())
        self.pool.grow(size * steps)
        self._finish_step(seconds, 0, decode_size=size, num_steps=steps)
        self._advance(steps)
        self.rules.on_decode(steps)

    # ---- parts of a step

    def _see_who_ended(self) -> None:
        """SGLang looks for room again once it has seen that somebody ended: one step later."""
        if self._ended_in_decode:
            self.rules.is_full = self._ended_in_decode = False

    def _kv_read(self) -> KvRead:
        running = self.running
        return KvRead(
            running.kv_tokens + running.size - self.shared.saved_tokens,
            running.window_tokens + running.num_growing,
            running.size,
            running.num_growing,
        )

    def _divide_device(self) -> None:
        """Looks at the remaining work again, every few steps."""
        if self._num_steps < self._refresh_at:
            return
        self._refresh_at = self._num_steps + self.config.refresh_steps
        if (work := self.rules.split_work()) is not None:
            shares = self.config.pdmux_splits
            self._split = shares[best_share(work, shares, self.config.pdmux_bandwidth_gain)]

    def _compute_prompts(self, num_decoding: int) -> tuple[int, float, list[_Prompt]]:
        """Takes prefill work for a step: tokens, seconds of attention, prompts that are then complete."""
        tokens, attention_s = 0, 0.0
        ready: list[_Prompt] = []
        budget = self._begin_pass(num_decoding)
        while tokens < budget and self._has_prompt():
            prompt = self._prompts[0]
            piece = min(prompt.left, budget - tokens)
            attention_s += self.timer.attention_s(prompt.done, piece)
            tokens += piece
            self._advance_prompt(piece, ready)
        if self._prompts:  # SGLang takes the prompt that goes on out of the batch, and looks for room again
            self.rules.is_full = False
        return tokens, attention_s, ready

    def _begin_pass(self, num_decoding: int) -> int:
        """Tokens that the pass may compute; 0 where there is none."""
        if not self._admitted:
            self.rules.is_full = False
        chunk = self._budget_tokens - num_decoding
        self._may_admit = chunk > 0 and not self.rules.is_full and self.rules.has_waiting
        if chunk <= 0 or (not self._prompts and not self._may_admit):
            return 0
        return self.rules.begin_pass(num_decoding=num_decoding, chunk_tokens=chunk)

    def _has_prompt(self) -> bool:
        """Whether a prompt can go on in this step, after admitting whoever may start."""
        return bool(self._prompts) or (self._may_admit and self._admit_next())

    def _advance_prompt(self, num_tokens: int, ready: list[_Prompt]) -> None:
        prompt = self._prompts[0]
        prompt.done += num_tokens
        prompt.left -= num_tokens
        if not prompt.left:
            ready.append(self._prompts.popleft())

    def _admit_next(self) -> bool:
        """Admits the next waiting request, if there is one and it fits."""
        if len(self._admitted) >= self.config.max_running:
            self.rules.is_full = True
        request = None if self.rules.is_full else self.rules.next_admitted()
        if request is None:
            self._may_admit = False
            return False
        generated = self.generated[request]
        kv_len = self._prompt_len[request] + generated
        _, found = self.pool.place(request)
        left = max(kv_len - found, 1)  # a fully cached prompt still computes its last token
        copy = self.pool.acquire(request, self._private_prompt[request] + generated)
        self._admitted.add(request)
        if generated:
            self._recomputed += left
        else:
            self._computed += left
        self._prompts.append(_Prompt(request, kv_len - left, left, copy))
        self._last_admit_s = self.now_s
        return True

    def _join(self, ready: list[_Prompt]) -> None:
        """Prompts that are complete give their first token; the requests decode on or are done."""
        for prompt in ready:
            request = prompt.request
            self.pool.computed(request, prompt.copy)
            self.rules.computed(request)
            kv_len = self._prompt_len[request] + self.generated[request]
            self.generated[request] = min(self.generated[request] + 1, self._output_len[request])
            steps = self._output_len[request] - self.generated[request]
            if steps > 0:
                self.running.join(request, kv_len, steps)
                self._account_left(request, kv_len, 1)
                self.shared.join(request)
            else:
                self._finish(request, kv_len)
                self.rules.is_full = False

    def _advance(self, num_steps: int) -> None:
        self._left_kv_tokens += num_steps * self._num_left
        for request, kv_len in self.running.advance(num_steps):
            self._account_left(request, -kv_len, -1)
            self.generated[request] = self._output_len[request]
            self.shared.leave(request)
            self._finish(request, kv_len)
            self._ended_in_decode = True

    def _account_left(self, request: int, kv_tokens: int, num_requests: int) -> None:
        if self._is_left is not None and self._is_left[request]:
            self._left_kv_tokens += kv_tokens
            self._num_left += num_requests

    def _finish(self, request: int, kv_len: int) -> None:
        self._admitted.remove(request)
        self.pool.release(request, self._private_len(request, kv_len), keep=True)
        self.rules.finish(request, self._output_len[request])
        self.finished[request] += 1
        self._num_done += 1

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
            self._admitted.remove(request)
            self.rules.retracting(request)
            own_len = self._private_len(request, kv_len)
            self.pool.release(request, own_len, keep=self._keeps_retracted, goes_on=self._keeps_retracted)
            self._retractions += 1
        generated = sum(self.generated[r] for r in self._admitted) + self.running.steps_since_joins()
        caps = sum(self._cap[r] for r in self._admitted)
        self.rules.on_retracted(generated, caps, self.running.size)
        self.rules.is_full = False

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
            self._job.n - self._num_done - len(self._admitted),
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
