"""Compute density: compute time over memory time, of a request, of a subtree, of the whole job.

A density above 1 is compute-intensive, below 1 memory-intensive. Prefix sharing shortens the compute time
only, so the density of anything with sharing inside is multiplied by `1 - prefix_sharing_ratio`.

Source: BlendServe, arXiv:2411.16102, sections 3.3, 4 and 5.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost_model import CostModel, FloatArray, IntArray
from sglang_blend.errors import PlanError


class Load(NamedTuple):
    """What a set of requests asks of the machine; scalars or arrays of one shape, seconds.

    Attributes:
        compute_s: compute time with every shared prefix computed once, `(1 - s) * T_comp`.
        saved_s: compute time that sharing saves, `s * T_comp`.
        memory_s: time of the KV reads in decode; sharing does not change it.
    """

    compute_s: Any
    saved_s: Any
    memory_s: Any

    @property
    def density(self) -> Any:
        """Compute density with sharing; see `density_of`."""
        return density_of(self.compute_s, self.memory_s)

    @property
    def prefix_sharing_ratio(self) -> Any:
        """Share (0 to 1) of the compute time that sharing saves; planned, not achieved."""
        return self.saved_s / (self.compute_s + self.saved_s)


def density_of(compute_s: Any, memory_s: Any) -> FloatArray:
    """Compute over memory time; infinite where nothing is read from the KV cache (no output).

    Args:
        compute_s, memory_s: seconds, 0 or more, scalars or arrays of one shape.

    Returns:
        float64 of that shape, dimensionless.
    """
    compute, memory = np.asarray(compute_s, np.float64), np.asarray(memory_s, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(memory > 0, compute / memory, np.inf)


def compute_density(prompt_len: IntArray, est_output_len: IntArray, cost: CostModel) -> FloatArray:
    """Compute time over memory time of each request, without prefix sharing: rho(r) of the paper.

    Args:
        prompt_len: (n,) int64, tokens.
        est_output_len: (n,) int64, tokens.

    Returns:
        (n,) float64, dimensionless; infinite where the output is empty.

    Raises:
        PlanError: shapes differ, or a length is negative.

    Source: BlendServe, section 4. There the attention part of the prefill is left out; here it is whatever
    the cost model counts.
    """
    if prompt_len.shape != est_output_len.shape:
        raise PlanError(f"{len(prompt_len)} prompts and {len(est_output_len)} output lengths do not pair")
    for name, length in (("prompt length", prompt_len), ("output length", est_output_len)):
        if length.size and length.min() < 0:
            raise PlanError(f"request {int(length.argmin())} has {name} {length.min()}; 0 or more is allowed")
    return density_of(cost.compute_s(prompt_len, est_output_len), cost.memory_s(prompt_len, est_output_len))


def log_density(density: NDArray[np.float64]) -> FloatArray:
    """Natural logarithm of densities, with 0 and infinity kept as infinities."""
    with np.errstate(divide="ignore"):
        return np.log(density)
