"""What the scheduler did, step by step: totals that are always there, and records in a file on request.

The totals ride in `get_server_info()["internal_states"][i]["blend"]`. The file (`BlendOptions.stats_file`,
beside the output of a job) has the records of `scheduling.step_records`. Works under every policy, which is
how the benchmark measures stock ones.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_blend.core.request import Side
from sglang_blend.cost.step_use import step_use
from sglang_blend.jsonl import BoundedLines
from sglang_blend.scheduling.step_records import STEPS_AT_FULL_DETAIL, StepRecord, run_header
from sglang_blend.srt.attention_backend import read_summary
from sglang_blend.srt.engine_cost import device_name, engine_cost
from sglang_blend.srt.policy import BlendSchedulePolicy
from sglang_blend.srt.radix_cache import BlendRadixCache
from sglang_blend.srt.sm_groups import decode_sm_share

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
    from sglang.srt.managers.scheduler import Scheduler

logger = logging.getLogger(__name__)

_FLUSH_S = 1.0


@dataclass
class Totals:
    """Since the scheduler started; counts, tokens and seconds.

    Attributes:
        steps, prefill_steps: forward passes; those with prefill in them.
        prefill_tokens: prompt tokens computed, again after a retraction.
        cached_tokens: prompt tokens taken from the cache.
        recomputed_tokens: of `prefill_tokens`, those computed again after a retraction.
        decode_tokens: tokens decoded (one per running request and step).
        num_decode_steps: steps with decode in them.
        retracted: requests whose memory was taken back.
        admitted: requests that began a prefill.
        policy_s: CPU time of ordering the waiting queue and, under our policies, of admission.
        busy_until_s, waited_until_s: seconds since the first step when the last step ended, and when a
            request last waited; their difference is the tail.
    """

    steps: int = 0
    prefill_steps: int = 0
    prefill_tokens: int = 0
    cached_tokens: int = 0
    recomputed_tokens: int = 0
    decode_tokens: int = 0
    num_decode_steps: int = 0
    retracted: int = 0
    admitted: int = 0
    policy_s: float = 0.0
    busy_until_s: float = 0.0
    waited_until_s: float = 0.0


@dataclass
class StepStats:
    """Watches one scheduler."""

    scheduler: Scheduler
    stats_file: str | None
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        self._started = 0.0
        self._record = StepRecord()
        self._skipped_before = 0
        self._admission_s_before = 0.0
        self.slowest_policy_s = 0.0
        self._flushed_at = 0.0
        self._lines = None if self.stats_file is None else BoundedLines(Path(self.stats_file))
        self._cost = None
        if self._lines is not None:
            pool = self.scheduler.token_to_kv_pool_allocator.size_full
            self._cost = engine_cost(self.scheduler.server_args, pool)

    def on_policy(self, seconds: float) -> None:
        """Time was spent on deciding who goes next."""
        self.totals.policy_s += seconds
        self._record.policy_ms += seconds * 1e3
        self.slowest_policy_s = max(self.slowest_policy_s, seconds)

    def on_retract(self, num_requests: int) -> None:
        """Memory was taken back."""
        self.totals.retracted += num_requests
        self._record.retracted += num_requests

    def on_step(self, batch: ScheduleBatch) -> None:
        """A batch is about to run."""
        now = time.monotonic()
        if not self.totals.steps:
            self._started = now
            with self._watching():
                self._write_header()
        policy = self.scheduler.policy
        if isinstance(policy, BlendSchedulePolicy):
            self.on_policy(policy.admission_s - self._admission_s_before)
            self._admission_s_before = policy.admission_s
        totals, record = self.totals, self._record
        totals.steps += 1
        if not record.steps:
            record.start_s = now - self._started
        record.steps += 1
        stats = batch.prefill_stats if batch.forward_mode.is_extend() else None
        num_decode = len(batch.reqs)
        if stats is not None:
            totals.prefill_steps += 1
            totals.prefill_tokens += stats.log_input_tokens
            totals.cached_tokens += stats.log_hit_tokens
            totals.recomputed_tokens += stats.reprocessed_log_input_tokens
            totals.admitted += stats.num_new_seqs
            record.prefill_tokens += stats.log_input_tokens
            record.cached_tokens += stats.log_hit_tokens
            record.admitted += stats.num_new_seqs
            num_decode = len(batch.decoding_reqs or ())
        totals.decode_tokens += num_decode
        totals.num_decode_steps += num_decode > 0
        record.decode_tokens += num_decode
        totals.busy_until_s = now - self._started
        if self.scheduler.waiting_queue:
            totals.waited_until_s = totals.busy_until_s
        record.t_s = totals.busy_until_s
        with self._watching():
            self._add_use(batch, num_decode, has_prefill=stats is not None)
            if record.steps > totals.steps // STEPS_AT_FULL_DETAIL:
                self._write(batch.reqs)

    def on_result(self) -> None:
        """A batch has run."""
        self.totals.busy_until_s = time.monotonic() - self._started

    def state(self) -> dict[str, Any]:
        """For `get_server_info`: totals, and what the policy counts."""
        policy = self.scheduler.policy
        state: dict[str, Any] = {
            "totals": asdict(self.totals),
            "slowest_policy_s": self.slowest_policy_s,
            "cpu_s": time.process_time(),
            "num_running": len(self.scheduler.running_batch.reqs),
            "num_waiting": len(self.scheduler.waiting_queue),
        }
        if isinstance(policy, BlendSchedulePolicy):
            policy.settle()  # nobody asks it while nothing waits
            scheduler = policy.scheduler
            state["policy"] = {
                "name": policy.name,
                "counters": asdict(scheduler.counters) | {"admission_s": policy.admission_s},
                "kv_left_tokens": scheduler.accounts.used[Side.LEFT],
                "kv_right_tokens": scheduler.accounts.used[Side.RIGHT],
                "density": scheduler.accounts.density,
                "num_waiting": scheduler.num_waiting,
            }
        if isinstance(tree := self.scheduler.tree_cache, BlendRadixCache):
            state["radix_cache"] = {
                "num_evicted_tokens": tree.num_evicted_tokens,
                "num_evicted_wanted_tokens": tree.num_evicted_wanted_tokens,
            }
        if attention := read_summary(self.scheduler):
            state["attention"] = attention
        return state

    def flush(self) -> None:
        """Write what is there, for a reader that asks."""
        with self._watching():
            if self._record.steps:
                self._write([])
            if self._lines is not None:
                self._lines.flush()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """What fails while watching a kind of model that nobody tried ends the file, not the engine."""
        try:
            yield
        except Exception:
            logger.warning("%s gets no more lines; the job goes on.", self.stats_file, exc_info=True)
            self._lines = None

    def _write_header(self) -> None:
        if self._lines is None:
            return
        scheduler, cost = self.scheduler, self._cost
        args = scheduler.server_args
        policy = scheduler.policy
        header = run_header(
            started_at=time.time(),
            policy=policy.name if isinstance(policy, BlendSchedulePolicy) else args.schedule_policy,
            model=args.served_model_name or args.model_path,
            device=device_name(),
            tp_size=args.tp_size,
            kv_pool_tokens=scheduler.token_to_kv_pool_allocator.size_full,
            page_size=args.page_size,
            max_running_requests=scheduler.max_running_requests,
            hardware=None if cost is None else asdict(cost.hardware),
        )
        self._lines.append(header)

    def _add_use(self, batch: ScheduleBatch, num_decode: int, *, has_prefill: bool) -> None:
        """What the step is expected to need of the device."""
        cost, record = self._cost, self._record
        if self._lines is None or cost is None:
            return
        extend: list[tuple[int, int]] = []
        decode_kv_tokens = 0
        if has_prefill:
            extend = list(zip(batch.prefix_lens, batch.extend_lens, strict=True))
            if num_decode:  # SGLang puts decoding requests behind those in prefill
                decode_kv_tokens = sum(prefix for prefix, _ in extend[-num_decode:])
                extend = extend[:-num_decode]
        elif batch.seq_lens_cpu is not None:
            decode_kv_tokens = int(batch.seq_lens_cpu.sum())
        use = step_use(cost, extend, num_decode, decode_kv_tokens)
        record.compute_s += use.compute_s
        record.kv_read_s += use.kv_read_s
        record.weight_read_s += use.weight_read_s

    def _write(self, reqs: list[Req]) -> None:
        """Args: reqs: of the batch that is about to run."""
        if self._lines is None:
            return
        scheduler, record = self.scheduler, self._record
        in_batch = set(map(id, reqs))
        record.num_running = len(in_batch | set(map(id, scheduler.running_batch.reqs)))
        record.num_waiting = len(scheduler.waiting_queue)
        record.kv_used_tokens = self._kv_used_tokens()
        record.decode_sm_share = decode_sm_share(scheduler)
        policy = scheduler.policy
        if isinstance(policy, BlendSchedulePolicy):
            counters, accounts = policy.scheduler.counters, policy.scheduler.accounts
            record.skipped = counters.skipped - self._skipped_before
            self._skipped_before = counters.skipped
            record.kv_left_tokens = accounts.used[Side.LEFT]
            record.kv_right_tokens = accounts.used[Side.RIGHT]
            record.density = accounts.density
        self._lines.append(record.to_json())
        self._record = StepRecord()
        now = time.monotonic()
        if now - self._flushed_at > _FLUSH_S:
            self._lines.flush()
            self._flushed_at = now

    def _kv_used_tokens(self) -> int:
        """Tokens that running requests hold; with several pools, those of the layers that see everything."""
        allocator, tree = self.scheduler.token_to_kv_pool_allocator, self.scheduler.tree_cache
        if tree.supports_swa():
            return int(allocator.size_full - allocator.full_available_size() - tree.full_evictable_size())
        evictable = tree.full_evictable_size() if tree.supports_mamba() else tree.evictable_size()
        return int(allocator.size - allocator.available_size() - evictable)
