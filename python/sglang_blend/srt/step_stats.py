"""What the scheduler did, step by step: totals that are always there, and records in a file on request.

The totals ride in `get_server_info()["internal_states"][i]["blend"]`. The file (`BlendOptions.stats_file`)
has one JSON line per step at first; later lines stand for more and more steps (`_STEPS_AT_FULL_DETAIL`), so a
night is some ten thousand lines. Works under every policy, which is how the benchmark measures stock ones.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any

import orjson

from sglang_blend.core.request import Side
from sglang_blend.srt.attention_backend import read_summary
from sglang_blend.srt.policy import BlendSchedulePolicy
from sglang_blend.srt.radix_cache import BlendRadixCache

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import ScheduleBatch
    from sglang.srt.managers.scheduler import Scheduler

_STEPS_AT_FULL_DETAIL = 2000
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
class _Record:
    """One line of the file: sums over its steps, and the state at its last one."""

    t_s: float = 0.0
    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    cached_tokens: int = 0
    admitted: int = 0
    skipped: int = 0
    retracted: int = 0
    policy_ms: float = 0.0
    num_running: int = 0
    num_waiting: int = 0
    kv_used_tokens: int = 0
    kv_left_tokens: float | None = None
    kv_right_tokens: float | None = None
    density: float | None = None


@dataclass
class StepStats:
    """Watches one scheduler."""

    scheduler: Scheduler
    stats_file: str | None
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        self._started = 0.0
        self._record = _Record()
        self._skipped_before = 0
        self._admission_s_before = 0.0
        self.slowest_policy_s = 0.0
        self._file: IO[bytes] | None = None
        self._flushed_at = 0.0
        if self.stats_file is not None:
            self._file = open(self.stats_file, "wb")  # noqa: SIM115 - open as long as the scheduler lives

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
        policy = self.scheduler.policy
        if isinstance(policy, BlendSchedulePolicy):
            self.on_policy(policy.counters.admission_s - self._admission_s_before)
            self._admission_s_before = policy.counters.admission_s
        totals, record = self.totals, self._record
        totals.steps += 1
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
        if self._file is not None and record.steps > totals.steps // _STEPS_AT_FULL_DETAIL:
            self._write(batch, now)

    def on_result(self) -> None:
        """A batch has run."""
        self.totals.busy_until_s = time.monotonic() - self._started

    def state(self) -> dict[str, Any]:
        """For `get_server_info`: totals, and what the policy counts."""
        policy = self.scheduler.policy
        state: dict[str, Any] = {
            "totals": asdict(self.totals),
            "slowest_policy_s": self.slowest_policy_s,
        }
        if isinstance(policy, BlendSchedulePolicy):
            policy.settle()  # nobody asks it while nothing waits
            state["policy"] = {
                "name": policy.name,
                "counters": asdict(policy.counters),
                "kv_left_tokens": policy.used[Side.LEFT],
                "kv_right_tokens": policy.used[Side.RIGHT],
                "density": policy.density,
                "num_waiting": policy.num_waiting,
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
        if self._file is not None:
            self._file.flush()

    def _write(self, batch: ScheduleBatch, now: float) -> None:
        assert self._file is not None
        scheduler, record = self.scheduler, self._record
        allocator, tree = scheduler.token_to_kv_pool_allocator, scheduler.tree_cache
        record.t_s = round(now - self._started, 4)
        in_batch = set(map(id, batch.reqs))
        record.num_running = len(in_batch | set(map(id, scheduler.running_batch.reqs)))
        record.num_waiting = len(scheduler.waiting_queue)
        record.kv_used_tokens = int(allocator.size - allocator.available_size() - tree.evictable_size())
        policy = scheduler.policy
        if isinstance(policy, BlendSchedulePolicy):
            record.skipped = policy.counters.skipped - self._skipped_before
            self._skipped_before = policy.counters.skipped
            record.kv_left_tokens = round(policy.used[Side.LEFT])
            record.kv_right_tokens = round(policy.used[Side.RIGHT])
            record.density = policy.density
        self._file.write(orjson.dumps(asdict(record)) + b"\n")
        self._record = _Record()
        if now - self._flushed_at > _FLUSH_S:
            self._file.flush()
            self._flushed_at = now
