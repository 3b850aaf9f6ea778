"""How PD-multiplexing divides the GPU: which of SGLang's stream groups decode runs on beside prefill.

SGLang 0.5.17 (`SchedulerMultiplexMixin`): group 0 is prefill alone, the last one decode alone, those between
are divisions of the multiprocessors. Stock chooses by the number of decoding requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sglang.srt.multiplex.pdmux_context import get_current_stream_idx

from sglang_blend.cost.sm_split import best_share

if TYPE_CHECKING:
    from sglang.srt.managers.scheduler import Scheduler

    from sglang_blend.srt.policy import BlendSchedulePolicy


def stream_group(policy: BlendSchedulePolicy, sm_counts: Sequence[tuple[int, int]]) -> int | None:
    """Index of the division that ends the remaining work soonest; None where the machine is not calibrated.

    Args:
        sm_counts: (prefill, decode) multiprocessors of each stream group.
    """
    cost = policy.scheduler.cost
    measured = None if cost is None else cost.hardware.measured
    if measured is None or measured.bandwidth_gain is None or len(sm_counts) < 3:
        return None
    work = policy.split_work()
    assert work is not None, "there is a cost model"
    shares = [decode / (prefill + decode) for prefill, decode in sm_counts[1:-1]]
    return 1 + best_share(work, shares, measured.bandwidth_gain)


def decode_sm_share(scheduler: Scheduler) -> float | None:
    """Part of the multiprocessors that decode has now, 0 to 1; None without PD-multiplexing."""
    if not scheduler.enable_pdmux:
        return None
    prefill, decode = scheduler.sm_counts[get_current_stream_idx()]
    return decode / (prefill + decode)
