"""Prepared requests, one after the other, as the columns that planning takes.

builder = TableBuilder()
builder.append(prepared)
table = builder.table()       # row `i` is the `i`-th that was appended
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import IO

import numpy as np

from sglang_blend.core.request import RequestTable
from sglang_blend.request import Prepared


class TableBuilder:
    """Memory grows with the number of requests; token ids are in a file where there is one."""

    def __init__(self, token_file: IO[bytes] | None = None, *, namespaces: Iterable[str] = ()) -> None:
        """An empty builder.

        Args:
            token_file: empty, for the token ids, which the table maps; None keeps them in memory.
            namespaces: those that come first in depth-first order; others follow as they appear.
        """
        self._token_file = token_file
        self._tokens = bytearray()
        self._offsets = array("q", [0])
        self._max_new_tokens = array("q")
        self._fixed_output = array("b")
        self._namespace = array("i")
        self._numbers = {name: number for number, name in enumerate(namespaces)}

    def __len__(self) -> int:
        return len(self._max_new_tokens)

    def append(self, prepared: Prepared) -> None:
        """Add one request. Not after `table()`.

        Raises:
            OSError: the token file cannot be written.
            OverflowError: a token id does not fit 32 bits.
        """
        ids = np.asarray(prepared.token_ids, np.int32).tobytes()
        if self._token_file is None:
            self._tokens += ids
        else:
            self._token_file.write(ids)
        self._offsets.append(self._offsets[-1] + len(prepared.token_ids))
        self._max_new_tokens.append(prepared.max_new_tokens)
        self._fixed_output.append(prepared.fixed_output)
        self._namespace.append(self._numbers.setdefault(prepared.namespace, len(self._numbers)))

    def extend(self, requests: Iterable[Prepared]) -> TableBuilder:
        """Add several; returns itself."""
        for prepared in requests:
            self.append(prepared)
        return self

    def table(self) -> RequestTable:
        """All requests. The arrays are views of what the builder holds.

        Raises:
            OSError: the token file cannot be written.
            PlanError: as `RequestTable`.
        """
        tokens: np.ndarray[tuple[int], np.dtype[np.int32]] = np.frombuffer(self._tokens, np.int32)
        if self._token_file is not None:
            self._token_file.flush()
            if self._offsets[-1]:
                tokens = np.memmap(self._token_file, dtype=np.int32, mode="r")
        return RequestTable(
            token_ids=tokens,
            offsets=np.asarray(self._offsets, np.int64),
            max_new_tokens=np.asarray(self._max_new_tokens, np.int64),
            fixed_output=np.asarray(self._fixed_output, np.bool_),
            namespace=np.asarray(self._namespace, np.int32),
        )
