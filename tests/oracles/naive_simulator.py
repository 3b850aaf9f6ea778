"""The obvious simulator: one step at a time, every sum recounted. For tests, small jobs only.

It states the engine's rules plainly; `simulator.py` must give the same steps, retractions and tokens, and
the same time up to rounding. Shared with it are only the step times and the config.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.pacing import peak_tokens, token_budget
from sglang_blend.core.sharing import LEAST_SHARED_LEN
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.simulated_job import SimulatedJob
from sglang_blend.simulate.step_time import KvRead, StepTimer


@dataclass
class _Req:
    number: int
    path: list[int]
    prompt_len: int
    private_prompt: int
    output_len: int
    est_len: float
    admission_len: float
    cap: int
    state: str = "waiting"  # waiting, prefill, running, done
    copied: int = 0
    waits_for: int = 0
    generated: int = 0
    prefill_done: int = 0
    prefill_left: int = 0
    kv_len: int = 0
    held_private: int = 0
    admitted_step: int = 0
    admitted_private: int = 0
    admitted_kv: int = 0
    admitted_generated: int = 0
    joined_kv: int = 0
    join_number: int = 0

    def remaining(self, step_no: int) -> float:
        """Expected decode steps to go, counted as if it had joined when it was admitted."""
        generated = self.admitted_generated
        first = self.admission_len - generated - 1
        if first <= 0 and generated:
            first = max(generated // 8, 8)
        first = max(first, 0)
        rem = self.admitted_step + first - step_no
        return rem if rem > 0 else max((first + generated - rem) // 8, 8)


@dataclass
class NaiveEngine:
    """State and rules of the engine; `run()` gives the makespan, the rest are public counters."""

    job: SimulatedJob
    sequence: IntArray
    cost: RooflineCost
    config: EngineConfig
    now_s: float = 0.0
    num_steps: int = 0
    step_no: int = 0
    retractions: int = 0
    computed: int = 0
    recomputed: int = 0
    output_tokens: int = 0
    num_joins: int = 0
    finish_order: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        tree, job = self.job.tree, self.job
        self.reqs = []
        for i in range(job.n):
            path, node = [], int(tree.leaf[i])
            while node:
                path.append(node)
                node = int(tree.parent[node])
            self.reqs.append(
                _Req(
                    number=i,
                    path=path,
                    prompt_len=int(tree.prompt_len[i]),
                    private_prompt=int(tree.private_len[i]),
                    output_len=int(job.output_len[i]),
                    est_len=float(job.est_output_len[i]),
                    admission_len=float(job.admission_output_len[i]),
                    cap=max(int(job.max_new_tokens[i]), int(job.output_len[i])),
                )
            )
        self.waiting = [int(i) for i in self.sequence]
        self.rank = {request: rank for rank, request in enumerate(self.waiting)}
        self.prefilling: list[_Req] = []
        self.late: list[_Req] = []  # admitted, and their prefix is being computed
        self.cached: dict[int, int] = {}  # segment -> when it was last unlocked
        self.in_flight: set[int] = set()  # cached, and being computed
        self.leftovers: list[tuple[int, int]] = []  # (when, tokens)
        self.clock = 0
        self.blocked, self.retry_at = False, 0
        self.ratio = self.config.ratio_start
        self.timer = StepTimer(self.cost, self.config)
        self.prefill_left_s = tree.prefill_compute_s(self.cost)
        self.refresh_at, self.budget, self.split, self.credit_s = -1, 0.0, 0.5, 0.0
        self.chunk = self.config.budget_tokens(self.cost)

    # ---- memory, recounted

    def admitted(self) -> list[_Req]:
        return [r for r in self.reqs if r.state in ("prefill", "running")]

    def running(self) -> list[_Req]:
        return [r for r in self.reqs if r.state == "running"]

    def locked(self) -> set[int]:
        return {node for r in self.admitted() for node in r.path}

    def used(self) -> int:
        seg = self.job.tree.seg_len
        held = sum(r.held_private for r in self.admitted()) + sum(int(seg[n]) for n in self.cached)
        return held + sum(tokens for _, tokens in self.leftovers)

    def evictable(self) -> int:
        locked = self.locked()
        unlocked = sum(int(self.job.tree.seg_len[n]) for n in self.cached if n not in locked)
        return unlocked + sum(tokens for _, tokens in self.leftovers)

    def available(self) -> int:
        return self.cost.kv_pool_tokens - self.used() + self.evictable()

    def make_room(self, num_tokens: int) -> None:
        while self.cost.kv_pool_tokens - self.used() < num_tokens:
            locked = self.locked()
            wanted = (
                {n for r in self.reqs if r.state == "waiting" for n in r.path}
                if self.config.eviction == "demand"
                else set()
            )
            parents = {int(self.job.tree.parent[n]) for n in self.cached}
            leaves = [n for n in self.cached if n not in locked and n not in parents]
            choices = [(n in wanted, self.cached[n], n) for n in leaves]
            choices += [(False, when, -1) for when, _ in self.leftovers]
            _, when, node = min(choices)
            if node < 0:
                self.leftovers = [entry for entry in self.leftovers if entry[0] != when]
            else:
                del self.cached[node]

    def release(self, req: _Req, keep: bool) -> None:
        before = self.locked()
        if keep and req.held_private:
            self.clock += 1
            self.leftovers.append((self.clock, req.held_private))
        req.held_private = 0
        req.state = "done" if keep else "waiting"
        after = self.locked()
        for node in req.path:  # from the leaf up
            if node in before and node not in after:
                self.clock += 1
                self.cached[node] = self.clock

    # ---- rules

    def may_admit(self) -> bool:
        return bool(self.waiting) and not (self.blocked and self.step_no < self.retry_at and self.admitted())

    def admit_next(self) -> bool:
        if not self.may_admit():
            return False
        req, others, config = self.reqs[self.waiting[0]], self.admitted(), self.config
        seg, locked = self.job.tree.seg_len, self.locked()
        kv_len, private = req.prompt_len + req.generated, req.private_prompt + req.generated
        here = [n for n in req.path if n in self.cached]
        need = kv_len - sum(int(seg[n]) for n in here)
        copied, waits_for = self.of_others(req)
        room = self.available() - sum(int(seg[n]) for n in here if n not in locked) - copied
        req.admitted_step, req.admitted_private, req.admitted_kv = self.step_no, private, kv_len
        req.admitted_generated = req.generated
        fits = len(others) < config.max_running and need + len(others) <= room
        if fits and config.admission == "peak":
            every = [*others, req]
            context = np.array([r.admitted_private + self.step_no - r.admitted_step for r in every])
            rem = np.array([r.remaining(self.step_no) for r in every])
            shared = sum(int(seg[n]) for n in locked | set(req.path))
            fits = peak_tokens(context, rem, shared) <= self.cost.kv_pool_tokens
        elif fits:
            ratio = self.ratio if config.admission == "ratio" else 1.0
            caps = [
                min(
                    max(r.admitted_step + max(r.cap - r.admitted_generated - 1, 0) - self.step_no, 0),
                    config.clip_new_tokens,
                )
                for r in others
            ]
            own = min(max(req.cap - req.generated - 1, 0), config.clip_new_tokens)
            fits = need + own + ratio * sum(caps) <= room
        fits = fits or not others
        self.blocked = not fits
        if not fits:
            self.retry_at = self.step_no + config.retry_steps
            return False
        self.waiting.pop(0)
        req.state = "prefill"
        missing = [n for n in req.path if n not in self.cached]
        self.make_room(sum(int(seg[n]) for n in missing) + private + copied)
        for node in missing:
            self.cached[node] = 0
            self.in_flight.add(node)
        req.held_private = private + copied
        req.copied, req.waits_for = copied, waits_for
        req.prefill_left = max(need + copied, 1)
        req.prefill_done = kv_len - req.prefill_left
        if req.generated:
            self.recomputed += req.prefill_left
        else:
            self.computed += need + copied
        (self.late if waits_for else self.prefilling).append(req)
        return True

    def of_others(self, req: _Req) -> tuple[int, int]:
        """Tokens that are computed beside another request, and the segment that is waited for."""
        theirs = [n for n in req.path if n in self.in_flight]
        tokens = sum(int(self.job.tree.seg_len[n]) for n in theirs)
        if self.config.new_prefixes == "known" or not theirs:
            return 0, 0
        if self.config.new_prefixes == "recompute" or tokens < LEAST_SHARED_LEN:
            return tokens, 0
        return 0, theirs[0]

    def start_late(self) -> None:
        there = [r for r in self.late if r.waits_for not in self.in_flight]
        self.late = [r for r in self.late if r.waits_for in self.in_flight]
        self.prefilling = there + self.prefilling

    def has_prefill(self) -> bool:
        while not self.prefilling:
            if not self.admit_next():
                return False
        return True

    def refresh(self) -> None:
        if self.num_steps < self.refresh_at:
            return
        self.refresh_at = self.num_steps + self.config.refresh_steps
        queued = [r for r in self.reqs if r.state == "waiting"]
        admitted = self.admitted()
        rem = [r.remaining(self.step_no) for r in admitted]
        kv = [r.admitted_kv + self.step_no - r.admitted_step for r in admitted]
        output = sum(r.est_len for r in queued) + sum(rem)
        steps = sum(r.prompt_len * r.est_len + r.est_len**2 / 2 for r in queued)
        steps += sum((k + m / 2) * m for k, m in zip(kv, rem, strict=True))
        est = self.job.est_output_len
        all_steps = float((self.job.tree.prompt_len * est + est**2 / 2).sum())
        read_len = self.job.tree.read_len(self.cost, est)
        read_s = float(self.cost.memory_s(read_len, est).sum()) / max(all_steps, 1.0)  # type: ignore[arg-type]
        decode_s, memory_s = output * self.cost.decode_token_s, steps * read_s
        longest = max(rem, default=1.0)
        if self.config.mode == "pdmux":
            num = max(steps / (0.9 * self.cost.kv_pool_tokens), longest, 1.0)
            self.split = self._best_split(decode_s, memory_s, num * self.timer.weight_s(len(self.running())))
            return
        self.budget = self.config.pace_factor * token_budget(
            remaining_compute_s=self.prefill_left_s + output * self.cost.token_s,
            token_compute_s=self.cost.token_s, remaining_token_steps=steps,
            longest_remaining_len=longest, kv_pool_tokens=self.cost.kv_pool_tokens,
            root_density=(self.prefill_left_s + decode_s) / memory_s if memory_s else np.inf,
        )  # fmt: skip

    def _best_split(self, decode_s: float, memory_s: float, weights_s: float) -> float:
        def seconds(share: float) -> float:
            bandwidth = min(1.0, self.config.pdmux_bandwidth_gain * share)
            decode = max(decode_s / share, weights_s / bandwidth) + memory_s / bandwidth
            prefill = self.prefill_left_s / (1 - share)
            return max(decode, prefill) + 0.1 * min(decode, prefill)

        return min(self.config.pdmux_splits, key=seconds)

    def take_piece(self, piece: int) -> float:
        """Computes part of the first prompt in line; returns the attention seconds."""
        req = self.prefilling[0]
        attention_s = self.timer.attention_s(req.prefill_done, piece)
        self.prefill_left_s = max(0.0, self.prefill_left_s - piece * self.cost.token_s - attention_s)
        req.prefill_done += piece
        req.prefill_left -= piece
        if not req.prefill_left:
            self.ready.append(self.prefilling.pop(0))
        return attention_s

    def collect(self, budget: int) -> tuple[int, float]:
        tokens, attention_s = 0, 0.0
        self.start_late()
        while tokens < budget and self.has_prefill():
            piece = min(self.prefilling[0].prefill_left, budget - tokens)
            tokens += piece
            attention_s += self.take_piece(piece)
        return tokens, attention_s

    def retract(self) -> None:
        if self.available() >= len(self.running()):
            return
        while self.available() < len(self.running()):
            victim = min(self.running(), key=lambda r: (r.generated, -r.joined_kv, -r.number))
            self.release(victim, keep=False)
            self.waiting = sorted([*self.waiting, victim.number], key=self.rank.__getitem__)
            self.retractions += 1
        done, caps = sum(r.generated for r in self.admitted()), sum(r.cap for r in self.admitted())
        self.ratio = min(1.0, (done + 20.0 * len(self.running())) / max(caps, 1.0))
        self.blocked, self.retry_at = True, self.step_no + self.config.retry_steps

    # ---- steps

    def run(self) -> float:
        """Steps until all requests are done; returns the makespan in seconds."""
        while any(r.state != "done" for r in self.reqs):
            self.ready: list[_Req] = []
            {"default": self.step_default, "pdmux": self.step_pdmux}.get(self.config.mode, self.step_mixed)()
            assert self.used() <= self.cost.kv_pool_tokens, "the pool is over-full"
        return self.now_s

    def step_default(self) -> None:
        tokens, attention_s = self.collect(self.chunk)
        if tokens:
            self.finish_step(self.timer.step_s(tokens, len(self.ready), attention_s, 0.0))
            self.join()
        else:
            self.decode_alone()

    def step_mixed(self) -> None:
        self.retract()
        size = len(self.running())
        budget = self.chunk - size
        if self.config.paced and (self.prefilling or self.late or self.may_admit()):
            self.refresh()
            least = self.config.min_prefill_tokens
            budget = int(min(max(self.budget - size, least), max(budget, least)))
        tokens, attention_s = self.collect(budget)
        if not tokens:
            self.decode_alone()
            return
        size = len(self.running())
        kv_s = self.timer.kv_s(self.kv_read()) if size else 0.0
        self.decode(self.timer.step_s(tokens + size, size + len(self.ready), attention_s, kv_s))
        self.join()

    def step_pdmux(self) -> None:
        self.retract()
        if not self.running():
            self.credit_s = 0.0
            tokens, attention_s = self.collect(self.chunk)
            self.finish_step(self.timer.step_s(tokens, len(self.ready), attention_s, 0.0))
            self.join()
            return
        self.start_late()
        if not self.has_prefill():
            self.credit_s = 0.0
            self.decode_alone()
            return
        self.refresh()
        seconds = self.timer.muxed_decode_s(len(self.running()), self.kv_read(), self.split)
        self.credit_s += seconds
        while self.credit_s > 0 and self.has_prefill():
            req = self.prefilling[0]
            each_s = self.timer.muxed_prefill_s(1, self.timer.attention_s(req.prefill_done, 1), self.split)
            piece = min(req.prefill_left, max(1, int(self.credit_s / each_s)), self.chunk)
            self.credit_s -= self.timer.muxed_prefill_s(piece, self.take_piece(piece), self.split)
        self.credit_s = min(self.credit_s, 0.0)
        self.decode(seconds)
        self.join()

    def kv_read(self) -> KvRead:
        window = self.cost.shape.window or 0
        running = self.running()
        return KvRead(
            sum(r.kv_len + 1 for r in running) - self.saved_tokens(running),
            sum(min(r.kv_len + 1, window) for r in running),
            len(running),
            0,
        )

    def saved_tokens(self, running: list[_Req]) -> float:
        """What reading each shared segment once saves."""
        if self.cost.shared_reads is None:
            return 0.0
        saved = 0.0
        for node, length in enumerate(self.job.tree.seg_len.tolist()):
            num_readers = sum(node in r.path for r in running)
            if node and num_readers > 1:
                saved += max(0.0, self.cost.shared_reads.gain_tokens(num_readers, length))
        return saved

    def decode_alone(self) -> None:
        self.retract()
        running = self.running()
        if running:
            self.decode(self.timer.step_s(len(running), len(running), 0.0, self.timer.kv_s(self.kv_read())))

    def decode(self, seconds: float) -> None:
        """One token for every running request (there may be none beside prefill)."""
        running = sorted(self.running(), key=lambda r: r.join_number)
        self.finish_step(seconds)
        if not running:
            return
        self.make_room(len(running))
        self.step_no += 1
        decay = (self.config.ratio_start - self.config.ratio_end) / self.config.ratio_decay_steps
        self.ratio = max(self.ratio - decay, self.config.ratio_end)
        for req in running:
            req.kv_len += 1
            req.held_private += 1
            req.generated += 1
            self.output_tokens += 1
        for req in running:
            if req.generated == req.output_len:
                self.finish(req)

    def join(self) -> None:
        """Complete prompts give their first token."""
        for req in self.ready:
            self.in_flight -= set(req.path)
            req.held_private -= req.copied
            req.copied = 0
            req.kv_len = req.joined_kv = req.prompt_len + req.generated
            if req.generated < req.output_len:
                req.generated += 1
                self.output_tokens += 1
            self.num_joins += 1
            req.join_number, req.state = self.num_joins, "running"
            if req.generated == req.output_len:
                self.finish(req)

    def finish(self, req: _Req) -> None:
        self.release(req, keep=True)
        self.finish_order.append(req.number)
        self.blocked = False

    def finish_step(self, seconds: float) -> None:
        self.now_s += seconds
        self.num_steps += 1
