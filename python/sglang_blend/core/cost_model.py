"""What planning needs to know about the machine: seconds of compute and of KV reads.

`core` only knows this Protocol; `sglang_blend.cost` implements it from a model shape and a hardware record,
and the tests with two lines of arithmetic. All lengths are tokens, all results seconds on the whole replica.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class CostModel(Protocol):
    """Seconds that a request keeps the compute units and the memory busy."""

    @property
    def kv_pool_tokens(self) -> int:
        """Tokens that the KV pool holds; `M` of the paper, section 5.3."""
        ...

    @property
    def shares_reads(self) -> bool:
        """Whether a decode step reads KV that several requests share once for all of them."""
        ...

    def shared_gain_tokens(self, num_readers: FloatArray, num_tokens: IntArray) -> FloatArray:
        """KV tokens that a decode step saves where so many requests read so many tokens together.

        Args:
            num_readers: (m,) float64, 1 or more.
            num_tokens: (m,) int64.

        Returns:
            (m,) float64, tokens less what grouping costs; 0 where it does not pay or nothing is shared.
        """
        ...

    def compute_s(self, prompt_len: IntArray, output_len: IntArray) -> FloatArray:
        """Compute time of each request, nothing shared: `Comp(r)` of the paper, section 4.

        Args:
            prompt_len: (n,) int64, tokens.
            output_len: (n,) int64, tokens.

        Returns:
            (n,) float64, seconds.
        """
        ...

    def memory_s(self, prompt_len: IntArray | FloatArray, output_len: IntArray) -> FloatArray:
        """Time to read the KV cache in all decode steps of each request: `Mem(r)` of the paper, section 4.

        Prefix sharing does not shorten it: every request reads the shared KV again. Where attention reads it
        once (`shares_reads`), callers pass the tokens that a request pays for (`core.shared_reads`).

        Args:
            prompt_len: (n,) int64 or float64, tokens.
            output_len: (n,) int64, tokens.

        Returns:
            (n,) float64, seconds; 0 where `output_len` is 0.
        """
        ...

    def extend_compute_s(self, prefix_len: IntArray, extend_len: IntArray) -> FloatArray:
        """Compute time to extend a cached prefix: the linear part and attention over the prefix.

        Args:
            prefix_len: (n,) int64, tokens already in the KV cache.
            extend_len: (n,) int64, tokens to compute.

        Returns:
            (n,) float64, seconds.
        """
        ...
