"""Which share of the multiprocessors decode gets beside prefill (PD-multiplexing)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# Beyond the longer side the shorter one costs a little too: some of it runs alone in the end.
_SHORTER_SIDE_RATIO = 0.1


class SplitWork(NamedTuple):
    """What is left to do, seconds on the whole device.

    Attributes:
        prefill_s: compute of prompts.
        decode_gemm_s: linear layers of decode.
        weight_read_s: reading the weights once for each decode step.
        kv_read_s: KV reads of decode.
    """

    prefill_s: float
    decode_gemm_s: float
    weight_read_s: float
    kv_read_s: float

    def makespan_s(self, share: float, bandwidth_gain: float) -> float:
        """Seconds with decode on `share` of the device, which reaches min(1, gain * share) of the bandwidth.

        Decode's linear layers take the longer of their arithmetic and the weights; its attention comes after.
        """
        bandwidth = min(1.0, bandwidth_gain * share)
        decode_s = (
            max(self.decode_gemm_s / share, self.weight_read_s / bandwidth) + self.kv_read_s / bandwidth
        )
        prefill_s = self.prefill_s / (1.0 - share)
        return max(decode_s, prefill_s) + _SHORTER_SIDE_RATIO * min(decode_s, prefill_s)


def best_share(work: SplitWork, shares: Sequence[float], bandwidth_gain: float) -> int:
    """Index of the share that ends soonest; the first of equal ones.

    Args:
        shares: to choose from, each above 0 and below 1; not empty.
    """
    return min(range(len(shares)), key=lambda i: work.makespan_s(shares[i], bandwidth_gain))
