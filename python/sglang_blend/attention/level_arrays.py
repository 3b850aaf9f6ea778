"""Shared runs as the arrays that paged attention kernels take: one ragged batch a level.

An entry of the batch is a run: its queries are those of its readers, its KV the run's slots. Pages are of one
token, whatever the cache's page size is, as in SGLang's FlashInfer backend.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.attention.shared_runs import IntArray, SharedRuns

Int32Array = NDArray[np.int32]


class LevelArrays(NamedTuple):
    """The runs of one level of a decode batch.

    Attributes:
        queries: (n,) int64, positions in the batch, those of each run together; each at most once.
        qo_indptr: (runs + 1,) int32, where each run's queries begin in `queries`.
        kv_indptr: (runs + 1,) int32, where each run's slots begin in `kv_indices`.
        kv_indices: (tokens,) int32, slots.
    """

    queries: IntArray
    qo_indptr: Int32Array
    kv_indptr: Int32Array
    kv_indices: Int32Array


def level_arrays(shared: SharedRuns) -> list[LevelArrays]:
    """The arrays of every level, the first one first."""
    return [
        LevelArrays(
            np.concatenate([run.readers for run in level]),
            _indptr([len(run.readers) for run in level]),
            _indptr([run.end - run.start for run in level]),
            np.concatenate([run.slots for run in level]).astype(np.int32),
        )
        for level in shared.levels()
    ]


def _indptr(sizes: list[int]) -> Int32Array:
    return np.append(0, np.cumsum(sizes)).astype(np.int32)
