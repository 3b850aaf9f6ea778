"""The obvious prefix tree: a dictionary of pages below each node. For tests and for reading, not for jobs.

It answers what `prefix_tree.py` and `sharing.py` answer with arrays: the tokens in the tree, its branching
nodes, and the tokens that an order computes with a cache that remembers only the current path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.request import RequestTable, Side

Page = tuple[int, ...]
Path = tuple[Page, ...]


class NaivePrefixTree:
    """A trie over whole pages; the rest of a prompt after its last full page is never shared."""

    def __init__(self, table: RequestTable, page_size: int = 1) -> None:
        self.table = table
        self.page_size = page_size
        self.rows_under: dict[Path, list[int]] = {}
        for row in range(table.n):
            for path in self._prefixes(row):
                self.rows_under.setdefault(path, []).append(row)

    @property
    def num_unique_tokens(self) -> int:
        """Tokens that must be computed at least: every page of the trie once, and every rest."""
        pages = sum(len(path) > 1 for path in self.rows_under)
        rests = sum(int(length) % self.page_size for length in self.table.prompt_len)
        return pages * self.page_size + rests

    def nodes(self) -> set[tuple[int, frozenset[int]]]:
        """Depth in tokens and rows of every prefix that is shared and after which its prompts part.

        The root (depth 0, all rows) always belongs to it.
        """
        found = {(0, frozenset(range(self.table.n)))}
        for path, rows in self.rows_under.items():
            if len(path) > 1 and len(rows) > 1:
                longer = [len(other) for p, other in self.rows_under.items() if p[:-1] == path]
                if longer != [len(rows)]:
                    found.add(((len(path) - 1) * self.page_size, frozenset(rows)))
        return found

    def num_computed_tokens(self, sequence: Sequence[int], side: NDArray[np.int8] | None = None) -> int:
        """Prompt tokens that an order computes when each side remembers only its last prompt."""
        last: dict[int, int] = {}
        computed = 0
        for row in sequence:
            of_row = Side.NONE if side is None else int(side[row])
            reused = max((self._shared_len(row, before) for before in last.values()), default=0)
            computed += int(self.table.prompt_len[row]) - reused
            last[of_row if of_row == Side.LEFT else Side.RIGHT] = row
        return computed

    def _prefixes(self, row: int) -> Iterator[Path]:
        """Paths of every full-page prefix; the first step of a path is the namespace."""
        prompt = self.table.prompt(row).tolist()
        path: Path = ((int(self.table.namespace[row]),),)
        yield path
        for end in range(self.page_size, len(prompt) + 1, self.page_size):
            path = (*path, tuple(prompt[end - self.page_size : end]))
            yield path

    def _shared_len(self, row: int, other: int) -> int:
        shared = set(self._prefixes(row)) & set(self._prefixes(other))
        return max(len(path) - 1 for path in shared) * self.page_size if shared else 0
