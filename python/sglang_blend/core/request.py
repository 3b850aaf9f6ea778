"""The requests of a job as columns, and the schedule that planning makes of them.

Row `i` of every column is request `i` in input order. A million requests are a handful of arrays; the token
ids are one flat array that may be memory-mapped.

    table = RequestTable.from_lists([[1, 2, 3], [1, 2, 4, 5]], max_new_tokens=[16, 16])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost_model import IntArray
from sglang_blend.errors import PlanError


class Side(IntEnum):
    """Which scanner of the dual scan placed a request; NONE in every other order."""

    NONE = 0
    LEFT = 1
    RIGHT = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class RequestTable:
    """All requests of a job. Arrays are taken as they are, not copied; nobody writes into them.

    Attributes:
        token_ids: (total,) int32, the prompts one after the other; may be an `np.memmap`.
        offsets: (n + 1,) int64, prompt `i` is `token_ids[offsets[i]:offsets[i + 1]]`.
        max_new_tokens: (n,) int64, the cap on the output, tokens; 0 is allowed (prefill only).
        fixed_output: (n,) bool, the output is exactly `max_new_tokens` long (ignore_eos, media).
        namespace: (n,) int32; requests of different namespaces (LoRA, extra_key) never share a prefix.
        rid: (n,) distinct integers or strings, the tie-break between equal requests; None takes the row
            number. With a rid the schedule does not depend on the order of the lines.

    Raises:
        PlanError: shapes or types do not fit, an empty prompt, a negative length or token id, a rid twice.
    """

    token_ids: NDArray[np.int32]
    offsets: IntArray
    max_new_tokens: IntArray
    fixed_output: NDArray[np.bool_]
    namespace: NDArray[np.int32]
    rid: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        _require(self.offsets.ndim == 1 and len(self.offsets) >= 1, "offsets has no entry; it needs n + 1")
        _require_dtype("token_ids", self.token_ids, np.int32)
        _require_dtype("offsets", self.offsets, np.int64)
        _require_column("max_new_tokens", self.max_new_tokens, self.n, np.int64)
        _require_column("fixed_output", self.fixed_output, self.n, np.bool_)
        _require_column("namespace", self.namespace, self.n, np.int32)
        total = len(self.token_ids)
        _require(
            int(self.offsets[0]) == 0 and int(self.offsets[-1]) == total,
            f"offsets run from {self.offsets[0]} to {self.offsets[-1]}, where 0 to {total} "
            f"(the number of token ids) is needed",
        )
        _refuse_rows("prompt length", self.prompt_len, self.prompt_len < 0, "offsets must not fall")
        _refuse_rows(
            "prompt length", self.prompt_len, self.prompt_len == 0, "a prompt needs at least one token"
        )
        _refuse_rows("max_new_tokens", self.max_new_tokens, self.max_new_tokens < 0, "0 or more is allowed")
        if total and (lowest := int(self.token_ids.min())) < 0:
            at = int(np.argmax(self.token_ids == lowest))
            row = int(np.searchsorted(self.offsets, at, side="right")) - 1
            raise PlanError(f"request {row} has token id {lowest}; token ids are 0 or more")
        if self.rid is not None:
            kind_ok = self.rid.dtype.kind in "iuSU"
            _require(kind_ok, f"rid has type {self.rid.dtype}; integers or strings are allowed")
            _require(len(self.rid) == self.n, f"rid has {len(self.rid)} entries for {self.n} requests")
            in_order = np.sort(self.rid)
            twice = np.flatnonzero(in_order[1:] == in_order[:-1])
            first_twice = in_order[twice].tolist()[:1]
            _require(len(twice) == 0, f"rid {first_twice} is there twice; each request needs its own")

    @classmethod
    def from_lists(
        cls,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: Sequence[float] | int = 16,
        fixed_output: Sequence[bool] | bool = False,
        namespace: Sequence[int] | int = 0,
        rid: Sequence[int] | Sequence[str] | None = None,
    ) -> RequestTable:
        """A table from Python lists, for tests and small jobs; a scalar stands for every request.

        Raises:
            PlanError: as the class, and when a length is NaN, infinite or not whole.
        """
        n = len(prompts)
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum([len(prompt) for prompt in prompts], out=offsets[1:])
        token_ids = np.empty(int(offsets[-1]), np.int32)
        for row, prompt in enumerate(prompts):
            try:
                token_ids[offsets[row] : offsets[row + 1]] = prompt
            except OverflowError as error:
                raise PlanError(f"request {row} has a token id that does not fit 31 bits") from error
        return cls(
            token_ids=token_ids,
            offsets=offsets,
            max_new_tokens=whole_lengths("max_new_tokens", np.broadcast_to(max_new_tokens, n)),
            fixed_output=np.broadcast_to(fixed_output, n).astype(np.bool_),
            namespace=np.broadcast_to(namespace, n).astype(np.int32),
            rid=None if rid is None or n == 0 else np.asarray(rid),
        )

    @property
    def n(self) -> int:
        """Number of requests."""
        return len(self.offsets) - 1

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of all prompts together, shared ones counted each time."""
        return len(self.token_ids)

    @cached_property
    def prompt_len(self) -> IntArray:
        """(n,) int64, tokens."""
        return np.diff(self.offsets)

    @cached_property
    def tie_order(self) -> IntArray:
        """(n,) int64, the rows in order of their rid: the order in which equal requests come."""
        return np.arange(self.n) if self.rid is None else np.argsort(self.rid, kind="stable")

    def prompt(self, row: int) -> NDArray[np.int32]:
        """(prompt_len[row],) int32, the token ids of one request; a view."""
        return self.token_ids[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """The planned order of a job, with what the scheduler needs to execute it.

    Attributes:
        order: name of the order that was made; for `auto` the order it chose.
        rank: (n,) int64, position of each request in the order, 0 first.
        side: (n,) int8, `Side` of each request.
        est_output_len: (n,) int64, estimated output length, tokens, within `max_new_tokens`.
        admission_output_len: (n,) int64, the length to admit by, tokens: a quantile of its group.
        unit: (n,) int64, number of the unit (subtree kept together) that the request belongs to.
        sharing_kept: part (0 to 1) of the possible prefix sharing that this order keeps, by the pool in hand
            where there is a cost model (`core.sharing`).
        root_density: compute density of the whole job; None without a cost model or without any output.
        num_observed: finished requests that the lengths rest on; 0 where they are guesses.
        seed: of every random choice.
        config: the resolved planning config as JSON values.
        reason: why this order was taken, a sentence for the report; empty when the user named it.
    """

    order: str
    rank: IntArray
    side: NDArray[np.int8]
    est_output_len: IntArray
    admission_output_len: IntArray
    unit: IntArray
    sharing_kept: float
    root_density: float | None
    seed: int
    config: dict[str, Any]
    reason: str = ""
    num_observed: int = 0

    @property
    def n(self) -> int:
        """Number of requests."""
        return len(self.rank)

    @cached_property
    def sequence(self) -> IntArray:
        """(n,) int64, the rows in planned order: `sequence[0]` runs first."""
        sequence = np.empty(self.n, np.int64)
        sequence[self.rank] = np.arange(self.n)
        return sequence

    def check_integrity(self) -> None:
        """Every request is there exactly once and every column has its length; cheap, a few passes.

        Raises:
            PlanError: the schedule is not a permutation, or a column does not fit.
        """
        for name in ("side", "est_output_len", "admission_output_len", "unit"):
            column = getattr(self, name)
            _require(len(column) == self.n, f"schedule column {name} has {len(column)} rows, not {self.n}")
        seen = np.zeros(self.n, np.bool_)
        inside = (self.rank >= 0) & (self.rank < self.n)
        seen[self.rank[inside]] = True
        missing = np.flatnonzero(~seen)
        if len(missing):
            raise PlanError(f"no request of the schedule has rank {missing[0]}; plan again")


def whole_lengths(name: str, values: Any) -> IntArray:
    """The values as (n,) int64 lengths in tokens.

    Raises:
        PlanError: a value is NaN, infinite, negative or not a whole number.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise PlanError(f"{name} has type {array.dtype}; whole numbers of tokens are allowed")
    bad = ~(np.isfinite(array) & (array >= 0)) | (array != np.floor(array))
    _refuse_rows(name, array, bad, "a whole number of tokens, 0 or more, is allowed")
    return array.astype(np.int64)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PlanError(message)


def _require_dtype(name: str, column: NDArray[Any], dtype: type[np.generic]) -> None:
    _require(column.dtype == dtype, f"{name} has type {column.dtype}, {np.dtype(dtype)} is needed")


def _require_column(name: str, column: NDArray[Any], n: int, dtype: type[np.generic]) -> None:
    _require_dtype(name, column, dtype)
    _require(column.shape == (n,), f"{name} has shape {column.shape} for {n} requests; ({n},) is needed")


def _refuse_rows(name: str, column: NDArray[Any], bad: NDArray[np.bool_], allowed: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise PlanError(f"request {row} has {name} {column[row]}; {allowed}")
