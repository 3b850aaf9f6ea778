"""What the running batch shares, as a radix tree over KV slots that requests join and leave.

SGLang's radix cache gives requests with a common prefix the same slots, so two requests share KV exactly as
far as their slots agree; nobody has to ask the cache. A join compares the newcomer's slots with one path of
the tree, a leave goes up one path.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sglang_blend.attention.shared_runs import IntArray, SharedRun, SharedRuns, SlotArray
from sglang_blend.cost.break_even import BreakEven


class _Run(NamedTuple):
    """A run worth reading together, with rows where `SharedRun` has positions."""

    level: int
    start: int
    end: int
    slots: SlotArray
    rows: IntArray


class _TreeRuns(NamedTuple):
    """What pays in one tree, a run before those below it.

    Attributes:
        table: (runs, 3) int64, of each run its level, its end and how many read it.
        rows: (sum of readers,) int64, the readers of each run, one run's after the other's.
    """

    runs: list[_Run]
    table: IntArray
    rows: IntArray


class _Node:
    """Tokens [start, end) that exactly `rows` have in common, two or more; the root has all rows, no tokens.

    A row of a node goes on in one of its children, or alone, or ends there. What a row has alone has no node:
    most requests end so, and a step that changes a tree need not look at each of them.
    """

    __slots__ = ("alone", "children", "end", "found", "parent", "rows", "run", "slot", "start")

    def __init__(self, slot: int, start: int, end: int, parent: _Node | None, rows: set[int]) -> None:
        self.slot = slot  # of token `start`; the parent's key
        self.start = start
        self.end = end
        self.parent = parent
        self.rows = rows
        self.run: _Run | None = None  # if it pays, and as long as the rows and tokens are the same
        self.found: _TreeRuns | None = None  # of a tree's top; None when that may have changed
        self.children: dict[int, _Node] = {}
        self.alone: dict[int, int] = {}  # slot of token `end` -> the row that goes on with it


class PrefixForest:
    """The prefixes of the requests that are in it, each known by its row, a number of the caller's."""

    def __init__(self, break_even: BreakEven) -> None:
        self._break_even = break_even
        self._root = _Node(-1, 0, 0, None, set())
        self._slots: dict[int, SlotArray] = {}
        self._last: dict[int, _Node] = {}  # row -> the deepest node it is in, the root for want of another

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
            node.found = node.run = None
            if at == length:
                break
            slot = int(slots[at])
            child = node.children.get(slot)
            if child is None:
                other = node.alone.pop(slot, None)
                if other is None:
                    node.alone[slot] = row
                    break
                end = at + _common_len(self._slots[other][at:], slots[at:])
                child = self._add_child(node, slot, other, end)
            else:
                end = at + _common_len(self._slots[next(iter(child.rows))][at : child.end], slots[at:])
                if end < child.end:
                    child = self._cut(child, end)
            node, at = child, end
        self._last[row] = node

    def leave(self, row: int) -> None:
        """A request runs no more."""
        node: _Node | None = self._last.pop(row)
        slots = self._slots.pop(row)
        if node is not None and node.end < len(slots):
            del node.alone[int(slots[node.end])]
        while node is not None:
            node.rows.discard(row)
            node.found = node.run = None
            parent = node.parent
            if parent is not None and len(node.rows) == 1:
                (other,) = node.rows
                del parent.children[node.slot]
                parent.alone[node.slot] = other
                self._last[other] = parent
            elif parent is not None and len(node.children) == 1:
                self._join_with_child(node)
            node = parent

    def shared_runs(self, rows: IntArray) -> SharedRuns:
        """The runs worth reading together.

        Args:
            rows: (bs,) int64, the rows in the forest, in the order of the batch.
        """
        assert len(rows) == len(self), f"{len(rows)} requests in the batch, {len(self)} in the forest"
        trees = [top.found or self._find_runs(top) for top in self._root.children.values()]
        private_start = np.zeros(len(rows), np.int64)
        runs = [run for tree in trees for run in tree.runs]
        if not runs:
            return SharedRuns((), private_start)
        position = np.empty(int(rows.max()) + 1, np.int64)
        position[rows] = np.arange(len(rows))
        levels, ends, sizes = np.concatenate([tree.table for tree in trees]).T
        # As `in_order`, but for all runs at once: sorted by run, then by position.
        first = np.repeat(np.arange(0, len(runs) * len(rows), len(rows)), sizes)
        readers = position[np.concatenate([tree.rows for tree in trees])]
        readers += first
        readers.sort()
        readers -= first
        private_start[readers] = np.repeat(ends, sizes)  # a request's last run comes last, and stays
        stops = np.cumsum(sizes)
        begins = stops - sizes
        order = np.argsort(levels * len(rows) + readers[begins]).tolist()
        begin_of, stop_of = begins.tolist(), stops.tolist()
        shared = []
        for i in order:
            run = runs[i]
            of_run = readers[begin_of[i] : stop_of[i]]
            shared.append(SharedRun(run.start, run.end, run.slots, of_run, run.level))
        return SharedRuns(tuple(shared), private_start)

    def _find_runs(self, top: _Node) -> _TreeRuns:
        """What pays in one tree; kept at its top."""
        runs: list[_Run] = []
        open_nodes = [(top, 0, 0)]
        while open_nodes:
            node, start, level = open_nodes.pop()
            run = node.run
            if run is None or (run.start, run.level) != (start, level):
                run = node.run = self._run_at(node, start, level)
            if run is not None:
                runs.append(run)
                start, level = node.end, level + 1
            open_nodes += [(child, start, level) for child in node.children.values()]
        table = np.array([(run.level, run.end, len(run.rows)) for run in runs], np.int64).reshape(-1, 3)
        rows = np.concatenate([run.rows for run in runs]) if runs else np.zeros(0, np.int64)
        top.found = found = _TreeRuns(runs, table, rows)
        return found

    def _run_at(self, node: _Node, start: int, level: int) -> _Run | None:
        """The run that ends with this node, if it pays; its readers read `level` others before `start`."""
        if not self._break_even.pays(len(node.rows), node.end - start):
            return None
        rows = np.fromiter(node.rows, np.int64, len(node.rows))
        return _Run(level, start, node.end, self._slots[int(rows[0])][start : node.end], rows)

    def check_integrity(self) -> None:
        """Recount the tree from the slots.

        Raises:
            AssertionError: a node has rows that do not share its tokens, or two nodes say what one could.
        """
        assert self._root.rows == set(self._slots) == set(self._last)
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            if node is not self._root:
                assert len(node.rows) > 1, f"[{node.start}, {node.end}) of {len(node.rows)} rows"
                assert node.start < node.end, f"[{node.start}, {node.end}) is empty"
                one = self._slots[min(node.rows)][node.start : node.end]
                for row in node.rows:
                    assert np.array_equal(self._slots[row][node.start : node.end], one), f"row {row} differs"
            for slot, child in node.children.items():
                assert child.parent is node, f"child of slot {slot} has another parent"
                assert (child.slot, child.start) == (slot, node.end), f"{child.slot}, {child.start}"
                assert node is self._root or len(child.rows) < len(node.rows), (
                    "an only child of the same rows"
                )
            assert not node.children.keys() & node.alone.keys(), "a row alone beside a child of its slot"
            for slot, row in node.alone.items():
                assert self._slots[row][node.end] == slot, f"row {row} does not go on with slot {slot}"
            at_end = {row for row in node.rows if len(self._slots[row]) == node.end}
            last_here = at_end | set(node.alone.values())
            assert all(self._last[row] is node for row in last_here), f"not the last node of {last_here}"
            onward = [row for child in node.children.values() for row in child.rows] + list(last_here)
            assert sorted(onward) == sorted(node.rows), f"{sorted(node.rows)} go on as {sorted(onward)}"
            nodes += node.children.values()

    def _add_child(self, node: _Node, slot: int, row: int, end: int) -> _Node:
        """Tokens up to `end` of a row that went on alone, for another that is about to join it."""
        child = node.children[slot] = _Node(slot, node.end, end, node, {row})
        slots = self._slots[row]
        if end < len(slots):
            child.alone[int(slots[end])] = row
        self._last[row] = child
        return child

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
        node.end, node.children, node.alone = child.end, child.children, child.alone
        for grandchild in node.children.values():
            grandchild.parent = node
        for row in child.rows:
            if self._last[row] is child:
                self._last[row] = node


def _common_len(a: SlotArray, b: SlotArray) -> int:
    """How far two rows of slots agree, both 1 or more."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    first = int(differs.argmax())
    return first if differs[first] else length
