"""Sorts prompts by their tokens and finds, on the way, every prefix that two of them share.

The sort is a top-down refinement, done for all groups of a round at once with numpy. A group is a range of
prompts that agree on their first `depth` tokens. Each round first extends every group as far as all its
members agree (windows of growing width, compared row by row), then splits it by the next token. A settled
group is exactly an internal node of the prefix tree, so nodes, parents and common prefix lengths fall out
without a second pass. The work is the tokens that are shared, plus a few passes over the requests for each
level of branching; the temporary memory is a fixed block, plus some numbers for each request.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.request import RequestTable

_FIRST_WINDOW = 16
_LARGEST_WINDOW = 1024
# Few, large steps: each one visits every prompt of a group, wherever it lies in memory.
_WINDOW_GROWTH = 8
# Tokens compared at a time: 1 MiB of them stays in the second-level cache.
_BLOCK_TOKENS = 1 << 18


class TokenSort(NamedTuple):
    """Prompts in token order, and the groups that share a prefix, parents before children.

    Attributes:
        sequence: (n,) int64, rows of the table by (namespace, tokens, rid).
        lcp: (n,) int64, tokens that prompt `i` shares with prompt `i - 1` of the sequence; `lcp[0]` is 0.
        leaf_group: (n,) int64, the deepest group that prompt `i` of the sequence is in.
        start, end: (g,) int64, group members are `sequence[start:end]`; group 0 is everything.
        depth: (g,) int64, tokens that all members share.
        parent: (g,) int64, group 0 is its own parent.
    """

    sequence: IntArray
    lcp: IntArray
    leaf_group: IntArray
    start: IntArray
    end: IntArray
    depth: IntArray
    parent: IntArray


class _Groups(NamedTuple):
    """Ranges of the sequence that are still to be told apart."""

    start: IntArray
    end: IntArray
    depth: IntArray
    parent: IntArray

    def select(self, which: NDArray[np.bool_] | IntArray) -> _Groups:
        return _Groups(*(column[which] for column in self))


def sort_by_tokens(table: RequestTable) -> TokenSort:
    """Sort the prompts; equal ones come in the order of their rid.

    A prompt that ends where another one goes on comes first. Namespaces are kept apart: the first level of
    groups is one per namespace, at depth 0.
    """
    n = table.n
    sequence = table.tie_order.astype(np.int64)
    lcp = np.zeros(n, np.int64)
    leaf_group = np.zeros(n, np.int64)
    zero = np.zeros(1, np.int64)
    found = [_Groups(zero, np.full(1, n, np.int64), zero, zero)]
    num_found = 1
    pending = _namespace_groups(table, sequence)
    while len(pending.start):
        pending = pending._replace(depth=_common_depth(table, sequence, pending))
        number = num_found + np.arange(len(pending.start))
        found.append(pending)
        num_found += len(number)
        pending = _split(table, sequence, lcp, leaf_group, pending, number)
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return TokenSort(sequence, lcp, leaf_group, *columns)


def _namespace_groups(table: RequestTable, sequence: IntArray) -> _Groups:
    """Order the sequence by namespace, in place; the namespaces with two or more requests."""
    sequence[:] = sequence[np.argsort(table.namespace[sequence], kind="stable")]
    of_row = table.namespace[sequence]
    start = np.flatnonzero(np.diff(of_row, prepend=of_row[:1] - 1))
    end = np.append(start[1:], table.n) if table.n else start
    zero = np.zeros(len(start), np.int64)
    return _Groups(start, end, zero, zero).select(end - start > 1)


def _members(groups: _Groups) -> tuple[IntArray, IntArray, IntArray]:
    """Positions of all members, index of each group's first member, and group index of each member."""
    size = groups.end - groups.start
    first = np.cumsum(size) - size
    of_member = np.repeat(np.arange(len(size)), size)
    position = np.arange(int(size.sum())) + (groups.start - first)[of_member]
    return position, first, of_member


def _common_depth(table: RequestTable, sequence: IntArray, groups: _Groups) -> IntArray:
    """(g,) int64, tokens on which all members of each group agree."""
    position, first, _ = _members(groups)
    shortest = np.minimum.reduceat(table.prompt_len[sequence[position]], first)
    depth = groups.depth.copy()
    window = np.full(len(depth), _FIRST_WINDOW)
    active = np.flatnonzero(depth < shortest)
    while len(active):
        # Never past the end of the shortest member: a power of two that fits, so few widths a round.
        room = shortest[active] - depth[active]
        width = np.minimum(window[active], 1 << (np.frexp(room.astype(np.float64))[1] - 1))
        agreed = np.empty(len(active), np.int64)
        for each in np.unique(width):
            of_width = width == each
            part = groups.select(active[of_width])._replace(depth=depth[active[of_width]])
            agreed[of_width] = _agreement(table, sequence, part, int(each))
        depth[active] += agreed
        window[active] = np.minimum(_WINDOW_GROWTH * window[active], _LARGEST_WINDOW)
        active = active[(agreed == width) & (agreed < room)]
    return depth


def _agreement(table: RequestTable, sequence: IntArray, groups: _Groups, width: int) -> IntArray:
    """(g,) int64, how many of the `width` tokens after the depth all members of each group agree on."""
    position, first, of_member = _members(groups)
    at = table.offsets[sequence[position]] + groups.depth[of_member]
    windows = np.lib.stride_tricks.sliding_window_view(table.token_ids, width)
    agreed = np.empty(len(position), np.int64)
    block_rows = max(2, _BLOCK_TOKENS // width)
    for begin in range(0, len(position), block_rows):
        stop = min(begin + block_rows, len(position))
        before = max(begin - 1, 0)
        rows = windows[at[before:stop]]
        differs = rows[1:] != rows[:-1]
        first_difference = np.argmax(differs, axis=1)
        same = ~differs[np.arange(len(differs)), first_difference]
        first_difference[same] = width
        agreed[before + 1 : stop] = first_difference
    agreed[first] = width  # each group's first member has no neighbour in the group
    return np.minimum.reduceat(agreed, first)


def _split(
    table: RequestTable,
    sequence: IntArray,
    lcp: IntArray,
    leaf_group: IntArray,
    groups: _Groups,
    number: IntArray,
) -> _Groups:
    """Sort each group by the token after its depth; writes `sequence`, `lcp` and `leaf_group` of the members.

    Returns:
        The runs of two or more members that share that token.
    """
    position, first, of_member = _members(groups)
    rows = sequence[position]
    depth = groups.depth[of_member]
    ended = depth == table.prompt_len[rows]
    at = np.minimum(table.offsets[rows] + depth, len(table.token_ids) - 1)
    token = np.where(ended, 0, table.token_ids[at].astype(np.int64) + 1)
    key = (of_member << 32) | token
    by_key = np.argsort(key, kind="stable")
    sequence[position] = rows[by_key]
    key, ended = key[by_key], ended[by_key]
    new_run = np.empty(len(key), np.bool_)
    new_run[0] = True
    new_run[1:] = key[1:] != key[:-1]
    # Between runs of a group, and between equal prompts, exactly `depth` tokens are shared.
    parts = new_run | ended
    parts[first] = False
    lcp[position[parts]] = depth[parts]
    leaf_group[position] = number[of_member]
    run_first = np.flatnonzero(new_run)
    run_size = np.diff(run_first, append=len(key))
    again = (run_size > 1) & ~ended[run_first]
    run_first, run_size = run_first[again], run_size[again]
    start = position[run_first]
    return _Groups(start, start + run_size, depth[run_first], number[of_member[run_first]])
