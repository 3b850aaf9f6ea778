"""What the running batch shares, as a radix tree over KV slots that requests join and leave.

SGLang's radix cache gives requests with a common prefix the same slots, so two requests share KV exactly as
far as their slots agree; nobody has to ask the cache. A join compares the newcomer's slots with one path of
the tree, a leave goes up one path.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sglang_blend.attention.break_even import BreakEven
from sglang_blend.attention.shared_runs import IntArray, SharedRun, SharedRuns, SlotArray


class _Run(NamedTuple):
    """A run worth reading together; fields as of `SharedRun`."""

    level: int
    start: int
    end: int
    slots: SlotArray
    num_readers: int


class _TreeRuns(NamedTuple):
    """What pays in one tree, a run before those below it.

    Attributes:
        rows: (sum of num_readers,) int64, the readers of each run, one run's after the other's.
    """

    runs: list[_Run]
    rows: IntArray


class _Node:
    """Tokens [start, end) that exactly `rows` have in common; with one row, what it has alone."""

    __slots__ = ("children", "end", "found", "parent", "rows", "slot", "start")

    def __init__(self, slot: int, start: int, end: int, parent: _Node | None, rows: set[int]) -> None:
        self.slot = slot  # of token `start`; the parent's key
        self.start = start
        self.end = end
        self.parent = parent
        self.rows = rows
        self.found: _TreeRuns | None = None  # of a tree's top; None when that may have changed
        self.children: dict[int, _Node] = {}


class PrefixForest:
    """The prefixes of the requests that are in it, each known by its row, a number of the caller's."""

    def __init__(self, break_even: BreakEven) -> None:
        self._break_even = break_even
        self._root = _Node(-1, 0, 0, None, set())
        self._slots: dict[int, SlotArray] = {}
        self._last: dict[int, _Node] = {}  # row -> the deepest node it is in

    def __len__(self) -> int:
        return len(self._slots)

    def join(self, row: int, slots: SlotArray) -> None:
        """A request begins to run.

        Args:
            row: not in the forest.
            slots: (n,) integer, where the KV of its tokens is; kept, so hand over a copy.
        """
        assert row not in self._slots, f"row {row} joins twice"
        self._slots[row] = slots
        node, at, length = self._root, 0, len(slots)
        while True:
            node.rows.add(row)
            node.found = None
            child = node.children.get(int(slots[at])) if at < length else None
            if child is None:
                break
            theirs = self._slots[next(iter(child.rows))][at : min(child.end, length)]
            differs = theirs != slots[at : at + len(theirs)]
            first = int(differs.argmax())
            if differs[first]:
                child = self._cut(child, at + first)
            elif length < child.end:
                child = self._cut(child, length)
            node, at = child, child.end
        if at < length:
            node.children[int(slots[at])] = node = _Node(int(slots[at]), at, length, node, {row})
        self._last[row] = node

    def leave(self, row: int) -> None:
        """A request runs no more."""
        node: _Node | None = self._last.pop(row)
        del self._slots[row]
        while node is not None:
            node.rows.discard(row)
            node.found = None
            parent = node.parent
            if parent is not None and not node.rows:
                del parent.children[node.slot]
            elif parent is not None and len(node.children) == 1:
                self._join_with_child(node)
            node = parent

    def shared_runs(self, rows: IntArray) -> SharedRuns:
        """The runs worth reading together.

        Args:
            rows: (bs,) int64, the rows in the forest, in the order of the batch.
        """
        assert len(rows) == len(self), f"{len(rows)} requests in the batch, {len(self)} in the forest"
        trees = [self._found_in(top) for top in self._root.children.values() if len(top.rows) > 1]
        runs = [run for tree in trees for run in tree.runs]
        private_start = np.zeros(len(rows), np.int64)
        if not runs:
            return SharedRuns((), private_start)
        position = np.empty(int(rows.max()) + 1, np.int64)
        position[rows] = np.arange(len(rows))
        levels, starts, ends, slots, sizes = zip(*runs, strict=True)
        # As `in_order`, but for all runs at once: sorted by run, then by position.
        first = np.repeat(np.arange(len(runs)) * len(rows), sizes)
        readers = position[np.concatenate([tree.rows for tree in trees])]
        readers += first
        readers.sort()
        readers -= first
        private_start[readers] = np.repeat(ends, sizes)  # a row's last run comes last, and stays
        stops = np.cumsum(sizes).tolist()
        of_run = [readers[stop - size : stop] for stop, size in zip(stops, sizes, strict=True)]
        shared = list(map(SharedRun, starts, ends, slots, of_run, levels))
        begins = readers[np.subtract(stops, sizes)]
        order = np.argsort(np.multiply(levels, len(rows)) + begins)
        return SharedRuns(tuple([shared[i] for i in order.tolist()]), private_start)

    def _found_in(self, top: _Node) -> _TreeRuns:
        """What pays in one tree."""
        if top.found is not None:
            return top.found
        runs: list[_Run] = []
        rows: list[int] = []
        open_nodes = [(top, 0, 0)]
        while open_nodes:
            node, start, level = open_nodes.pop()
            if self._break_even.pays(len(node.rows), node.end - start):
                slots = self._slots[next(iter(node.rows))][start : node.end]
                runs.append(_Run(level, start, node.end, slots, len(node.rows)))
                rows += node.rows
                start, level = node.end, level + 1
            open_nodes += [(child, start, level) for child in node.children.values() if len(child.rows) > 1]
        top.found = _TreeRuns(runs, np.array(rows, np.int64))
        return top.found

    def check_integrity(self) -> None:
        """Recount the tree from the slots.

        Raises:
            AssertionError: a node has rows that do not share its tokens, or two nodes say what one could.
        """
        seen: dict[int, int] = {}
        nodes = list(self._root.children.values())
        while nodes:
            node = nodes.pop()
            assert node.rows, f"[{node.start}, {node.end}) of nobody"
            assert node.start < node.end, f"[{node.start}, {node.end}) is empty"
            one = self._slots[min(node.rows)][node.start : node.end]
            for row in node.rows:
                assert np.array_equal(self._slots[row][node.start : node.end], one), f"row {row} differs"
                seen[row] = max(seen.get(row, 0), node.end)
            for slot, child in node.children.items():
                assert child.parent is node, f"child of slot {slot} has another parent"
                assert (child.slot, child.start) == (slot, node.end), f"{child.slot}, {child.start}"
                assert len(child.rows) < len(node.rows), "a node with one child of the same rows"
            nodes += node.children.values()
        assert seen == {row: len(slots) for row, slots in self._slots.items() if len(slots)}

    def _cut(self, node: _Node, at: int) -> _Node:
        """Put a node above this one that ends at token `at`."""
        parent = node.parent
        assert parent is not None, "the root is never cut"
        assert node.start < at < node.end, f"{at} not in ({node.start}, {node.end})"
        upper = _Node(node.slot, node.start, at, parent, set(node.rows))
        parent.children[node.slot] = upper
        node.slot = int(self._slots[next(iter(node.rows))][at])
        node.start, node.parent = at, upper
        upper.children[node.slot] = node
        return upper

    def _join_with_child(self, node: _Node) -> None:
        """Undo a cut that nobody needs any more: an only child with the same rows."""
        (child,) = node.children.values()
        if len(child.rows) < len(node.rows):
            return
        node.end, node.children = child.end, child.children
        for grandchild in node.children.values():
            grandchild.parent = node
        for row in child.rows:
            if self._last[row] is child:
                self._last[row] = node
