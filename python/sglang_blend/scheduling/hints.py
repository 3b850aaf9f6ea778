"""What a request carries from the plan to the scheduler, inside `sampling_params.custom_params`.

    hints = PlannedHints(workload, schedule).of(row)              # in the parent, of a planned job
    custom_params = with_hints(custom_params, hints.to_json())
    hints = read_hints(req.sampling_params.custom_params)         # in the scheduler

Only scalars, one level deep: the type that SGLang declares for `custom_params` allows no more.

Where several have a word on a request, one rule holds for all ways in. Its place and its densities are those
of the plan that it runs in; hints that it brought along count where nobody else plans it. Its length is, in
this order, a fixed one (`ignore_eos`), what its hints say if they rest on finished outputs (`num_observed`),
and what the scheduler has seen itself.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.density import density_of
from sglang_blend.core.output_length import OutputEstimate
from sglang_blend.core.prefix_tree import prefix_sum
from sglang_blend.core.request import Schedule, Side
from sglang_blend.core.workload import Workload

HINTS_KEY = "blend"
_MOST_RANK = 2**53
_MOST_TOKENS = 10**7


class HintError(ValueError):
    """The hints of a request cannot be used; the message says which field and what it may be."""


class Hints(NamedTuple):
    """The plan's words about one request.

    Attributes:
        rank: position in the plan, 0 first. Ties are broken by arrival.
        side: which scanner placed it.
        est_output_len: expected output, tokens.
        admission_output_len: output to reserve memory by, tokens; not below the estimate.
        num_observed: finished requests that the estimate rests on; 0 is a guess from `max_new_tokens`, which
            the scheduler replaces as soon as it has seen outputs itself.
        density: compute density of the request's unit; infinite without decode.
        root_density: compute density of this and all later requests of the plan.
        shared_len: tokens of its prompt that another request of the job begins with too.
    """

    rank: int
    side: Side = Side.NONE
    est_output_len: int = 1
    admission_output_len: int = 1
    num_observed: int = 0
    density: float = 1.0
    root_density: float = 1.0
    shared_len: int = 0

    def to_json(self) -> dict[str, int | float]:
        """As JSON values; an infinite density, which JSON has not, is left out and read back as infinite."""
        values = {name: value for name, value in self._asdict().items() if value != math.inf}
        return values | {"side": int(self.side)}


def with_hints(
    custom_params: dict[str, Any] | None, hints: dict[str, int | float] | None
) -> dict[str, Any] | None:
    """The custom params of a request with the plan's hints in place of its own; without a plan as they were.

    Args:
        hints: as `Hints.to_json` gives them.
    """
    return custom_params if hints is None else {**(custom_params or {}), HINTS_KEY: hints}


def read_hints(custom_params: object) -> Hints | None:
    """The hints in a request's `custom_params`; None where there are none.

    Estimates outside 1 to 10,000,000 tokens are brought into that range; the scheduler also holds them
    within `max_new_tokens`. Fields it does not know are left alone.

    Raises:
        HintError: a field has a wrong type or a value that means nothing.
    """
    if not isinstance(custom_params, dict) or HINTS_KEY not in custom_params:
        return None
    given = custom_params[HINTS_KEY]
    if not isinstance(given, dict):
        raise HintError(f"{HINTS_KEY} is {given!r}; an object with at least a rank is needed")
    estimate = _tokens(given, "est_output_len", 1)
    return Hints(
        rank=_whole(given, "rank", None, 0, _MOST_RANK),
        side=Side(_whole(given, "side", 0, 0, len(Side) - 1)),
        est_output_len=estimate,
        admission_output_len=max(_tokens(given, "admission_output_len", estimate), estimate),
        num_observed=_whole(given, "num_observed", 0, 0, _MOST_RANK),
        density=_density(given, "density"),
        root_density=_density(given, "root_density"),
        shared_len=_whole(given, "shared_len", 0, 0, _MOST_TOKENS),
    )


def _number(given: dict[Any, Any], name: str, default: float | None) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise HintError(f"{name} is {value!r}; a number is needed")
    return value


def _whole(given: dict[Any, Any], name: str, default: int | None, least: int, most: int) -> int:
    value = _number(given, name, default)
    if not least <= value <= most or value != int(value):
        raise HintError(f"{name} is {value!r}; a whole number from {least} to {most} is needed")
    return int(value)


def _tokens(given: dict[Any, Any], name: str, default: int) -> int:
    return int(min(max(_number(given, name, default), 1), _MOST_TOKENS))


def _density(given: dict[Any, Any], name: str) -> float:
    value = _number(given, name, math.inf)
    if value < 0:
        raise HintError(f"{name} is {value!r}; 0 or more is needed")
    return float(value)


class PlannedHints:
    """Makes the hints of a row: its place in the plan, lengths and densities by the newest estimates."""

    def __init__(self, workload: Workload, schedule: Schedule) -> None:
        self._workload, self._schedule = workload, schedule

    def renewed(self, lengths: OutputEstimate) -> PlannedHints:
        """The same plan with other expected lengths; counts the densities at once."""
        hints = PlannedHints(replace(self._workload, lengths=lengths), self._schedule)
        assert len(hints.density) == len(hints.root_density) == len(hints.shared_len)
        return hints

    def of(self, row: int) -> Hints:
        """The hints of one request."""
        lengths = self._workload.lengths
        observed = lengths.num_observed
        exact = bool(self._workload.table.fixed_output[row])
        return Hints(
            rank=int(self._schedule.rank[row]),
            side=Side(int(self._schedule.side[row])),
            est_output_len=max(int(lengths.est_output_len[row]), 1),
            admission_output_len=max(int(lengths.admission_output_len[row]), 1),
            # A fixed length is as good as observed.
            num_observed=max(observed, 1) if exact else observed,
            density=float(self.density[row]),
            root_density=float(self.root_density[row]),
            shared_len=int(self.shared_len[row]),
        )

    @cached_property
    def density(self) -> FloatArray:
        """(n,) float64, compute density of the unit of each row; infinite without a cost model."""
        if self._workload.cost is None:
            return np.full(self._schedule.n, np.inf)
        return unit_density(self._schedule.unit, *self._loads)

    @cached_property
    def shared_len(self) -> IntArray:
        """(n,) int64, tokens of each prompt that another request begins with too."""
        tree = self._workload.tree
        return tree.node_depth[tree.leaf_parent][tree.leaf_of_row]

    @cached_property
    def root_density(self) -> FloatArray:
        """(n,) float64, density of each row and all later ones; infinite without a cost model."""
        if self._workload.cost is None:
            return np.full(self._schedule.n, np.inf)
        return rest_density(self._schedule.rank, *self._loads)

    @property
    def _loads(self) -> tuple[FloatArray, FloatArray]:
        """Compute and memory seconds of each row."""
        leaf = self._workload.tree.leaf_of_row
        return self._workload.leaf_compute_s[leaf], self._workload.leaf_memory_s[leaf]


def unit_density(unit: IntArray, compute_s: FloatArray, memory_s: FloatArray) -> FloatArray:
    """(n,) float64, compute density of the unit of each row.

    Args:
        unit: (n,) int64, number of each row's unit.
        compute_s, memory_s: (n,) float64, seconds of each row, shared compute spread over those that share.
    """
    return density_of(np.bincount(unit, compute_s), np.bincount(unit, memory_s))[unit]


def rest_density(rank: IntArray, compute_s: FloatArray, memory_s: FloatArray) -> FloatArray:
    """(n,) float64, compute density of each row and all that come later.

    Args:
        rank: (n,) int64, place of each row in the plan.
        compute_s, memory_s: as for `unit_density`.
    """
    sequence = np.argsort(rank)
    compute, memory = prefix_sum(compute_s[sequence]), prefix_sum(memory_s[sequence])
    return density_of(compute[-1] - compute[:-1], memory[-1] - memory[:-1])[rank]
