"""What attention reads is counted with and without sharing."""

import numpy as np

from attention.batches import FREE, RadixSlots
from oracles.naive_groups import naive_groups
from sglang_blend.attention.read_counts import ReadCounts


def test_bytes_with_and_without_sharing() -> None:
    """Three requests share 100 of their 110 tokens in one step; another step shares nothing."""
    radix = RadixSlots()
    shared = naive_groups([radix.slots([1] * 100 + [10 + i] * 10) for i in range(3)], FREE)
    alone = naive_groups([np.arange(110)], FREE)
    counts = ReadCounts()
    counts.add_decode(330, shared)
    counts.add_decode(110, alone)
    said = counts.summary(kv_bytes_per_token=2.0)
    assert said["decode_unshared_bytes"] == 2 * 440
    assert said["decode_read_bytes"] == 2 * (440 - 200)
    assert (said["shared_steps_ratio"], said["mean_readers"], said["most_readers"]) == (0.5, 3, 3)
