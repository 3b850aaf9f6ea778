"""Expected output lengths: sampled over the tree, averaged by subtree, corrected while the job runs.

    rows = choose_sample(table, tree, 0.01, rng)       # run these first, keep their results
    lengths = OutputLengths(table, tree, config)
    lengths.observe(rows, their_output_len)
    estimate = lengths.estimate()                      # again whenever more has finished

A request takes the mean of the finished requests in the smallest subtree around it that has enough of them,
and that allow about as many tokens as it does (same power of two of `max_new_tokens`): two tasks that share
only the chat template are told apart by their caps. Where a subtree has too few, its parent is asked, up to
the root; then requests of every cap; then, with nothing finished at all, a fixed part of `max_new_tokens`.
Estimates never exceed `max_new_tokens`, and a fixed output is exact.

Source: BlendServe, arXiv:2411.16102, sections 5.1 and 5.4. The paper takes a sibling's mean for a subtree
without samples and leaves open what happens without any; the parent's mean covers all siblings. A finished
request that was cut off at its cap counts with its cap, so estimates for larger caps can be low.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.prefix_tree import PrefixTree, prefix_sum
from sglang_blend.core.request import RequestTable, whole_lengths
from sglang_blend.errors import PlanError


class OutputEstimate(NamedTuple):
    """Expected lengths in row order.

    Attributes:
        est_output_len: (n,) int64, the mean to plan with, tokens.
        admission_output_len: (n,) int64, the quantile to reserve memory by, tokens; not below the mean.
        num_observed: finished requests that it rests on.
    """

    est_output_len: IntArray
    admission_output_len: IntArray
    num_observed: int


def draw_lengths(table: RequestTable, expected: OutputEstimate, seed: int) -> IntArray | None:
    """Output lengths as they might come out: spread exponentially about the expected ones, up to each cap.

    Returns:
        (n,) int64, at least 1; None where every length is known.
    """
    is_open = ~table.fixed_output
    if expected.num_observed >= int(is_open.sum()):
        return None
    mean = expected.est_output_len
    drawn = np.random.default_rng(seed).exponential(np.maximum(mean, 1)).round().astype(np.int64)
    return np.where(is_open, np.clip(drawn, 1, np.maximum(table.max_new_tokens, 1)), mean)


def choose_sample(
    table: RequestTable, tree: PrefixTree, sample_ratio: float, rng: np.random.Generator
) -> IntArray:
    """Rows to run first: one at random from each of equally long stretches of the tree's leaves.

    Args:
        sample_ratio: 0 to 1, of the requests whose length is not fixed; at least one is taken if it is
            above 0.

    Returns:
        (k,) int64, rows in tree order; empty when every length is fixed.
    """
    unknown = tree.sequence[~table.fixed_output[tree.sequence]]
    num_sampled = int(np.ceil(len(unknown) * sample_ratio))
    if num_sampled == 0:
        return np.empty(0, np.int64)
    edges = np.arange(num_sampled + 1) * len(unknown) // num_sampled
    return unknown[rng.integers(edges[:-1], edges[1:])]


class OutputLengths:
    """Finished output lengths of a job and what they say about the others."""

    def __init__(self, table: RequestTable, tree: PrefixTree, config: PlanConfig) -> None:
        self._table, self._tree, self._config = table, tree, config
        self._observed = np.full(table.n, np.nan)

    def observe(self, rows: IntArray, output_len: IntArray) -> None:
        """Note the true lengths of finished requests; a row noted again keeps the last value.

        Raises:
            PlanError: a length is negative or not a number, or there is no such row.
        """
        for row in rows[(rows < 0) | (rows >= self._table.n)]:
            raise PlanError(f"row {row} is not one of the {self._table.n} requests")
        self._observed[rows] = whole_lengths("output length", output_len)

    @property
    def observed(self) -> FloatArray:
        """(n,) float64, true lengths in tokens; NaN where a request has not finished. Not to be written."""
        return self._observed

    def estimate(self) -> OutputEstimate:
        """Expected lengths of all requests, after what has finished so far; a few passes over the job."""
        table, tree, config = self._table, self._tree, self._config
        cap = table.max_new_tokens[tree.sequence].astype(np.float64)
        known = np.where(table.fixed_output, np.nan, self._observed)[tree.sequence]
        mean = np.ceil(cap * config.unsampled_ratio)
        high = np.ceil(cap * config.unsampled_admission_ratio)
        seen = ~np.isnan(known)
        cap_class = np.frexp(cap)[1]
        if seen.any():
            self._fill(known, np.ones(tree.n, np.bool_), 1, mean, high)
        for each in np.unique(cap_class[seen]):
            self._fill(known, cap_class == each, config.min_samples, mean, high)
        least = np.minimum(cap, 1.0)
        mean = np.clip(np.rint(mean), least, cap)
        high = np.clip(np.ceil(high), mean, cap)
        exact = table.fixed_output[tree.sequence]
        mean[exact] = high[exact] = cap[exact]
        by_row = np.empty((2, tree.n), np.int64)
        by_row[:, tree.sequence] = mean, high
        return OutputEstimate(by_row[0], by_row[1], int(seen.sum()))

    def _fill(
        self,
        known: FloatArray,
        members: NDArray[np.bool_],
        min_samples: int,
        mean: FloatArray,
        high: FloatArray,
    ) -> None:
        """Set mean and quantile of the members from finished members; those of too small a root are left."""
        tree = self._tree
        samples = np.flatnonzero(members & ~np.isnan(known))
        if len(samples) < min_samples:
            return
        first = np.searchsorted(samples, tree.node_start)
        last = np.searchsorted(samples, tree.node_end)
        group = tree.nearest_marked(last - first >= min_samples)[tree.leaf_parent[members]]
        nodes, of_member = np.unique(group, return_inverse=True)
        first, last = first[nodes], last[nodes]
        upto = prefix_sum(known[samples])
        mean[members] = ((upto[last] - upto[first]) / (last - first))[of_member]
        quantile = _quantile_of_ranges(known[samples], first, last, self._config.admission_quantile)
        high[members] = quantile[of_member]


def _quantile_of_ranges(values: FloatArray, first: IntArray, last: IntArray, quantile: float) -> FloatArray:
    """(g,) float64, the smallest value of `values[first:last]` that `quantile` of them do not exceed."""
    size = last - first
    begin = np.cumsum(size) - size
    of_value = np.repeat(np.arange(len(size)), size)
    taken = values[np.arange(int(size.sum())) + (first - begin)[of_value]]
    taken = taken[np.lexsort((taken, of_value))]
    at = np.clip(np.ceil(quantile * size).astype(np.int64) - 1, 0, size - 1)
    result: FloatArray = taken[begin + at]
    return result


def remaining_len(est_output_len: IntArray, num_generated: IntArray) -> FloatArray:
    """Tokens that running requests are expected to add: `max(est - generated, generated / 8, 8)`.

    A request that has outrun its estimate is expected to go on for an eighth of what it has.

    Args:
        est_output_len, num_generated: (n,) int64, tokens.

    Returns:
        (n,) float64, tokens. Source: physics study of this project; the paper has no formula.
    """
    generated = num_generated.astype(np.float64)
    remaining: FloatArray = np.maximum(np.maximum(est_output_len - generated, generated / 8), 8.0)
    return remaining
