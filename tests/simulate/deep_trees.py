"""Made jobs whose shared prefixes are long and deep, so that two paths of the tree crowd the KV pool.

    for spec in tree_specs(200): table, output_len = make_tree(spec)

Five families, each with its own kind of sharing:

- `turns`: conversations; every turn repeats all turns before it, up to the longest path.
- `branches`: a tree of some fan-out at every level; requests end at its leaves.
- `questions`: few long documents, bursts of requests at the end of each.
- `attempts`: a long trunk per task; at every step several attempts leave it and some go on.
- `mixture`: conversations beside short prompts with long outputs that share nothing: something to blend.

Path length is given against the pool, outputs are short or long against the prompts, and orders know them or
know a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.request import RequestTable

FAMILIES = ("turns", "branches", "questions", "attempts", "mixture")
# Prompt tokens of one job, at most about: building its tree takes as long as all its simulations.
_MOST_PROMPT_TOKENS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class TreeSpec:
    """One job of a family.

    Attributes:
        pool_tokens: of the KV pool it is made for.
        path_ratio: tokens of its longest shared path, over the pool.
        depth: shared segments on the longest path.
        fan_out: children of a node, or requests of a burst.
        mean_output: tokens.
        output_sigma: of the logarithm of the output lengths; they differ by path as much as by request.
        known: whether orders know all output lengths; else a sample.
        grouped: requests of one kind stand together in token order; else they are mixed.
        seed: of everything random.
    """

    family: str
    pool_tokens: int
    path_ratio: float
    depth: int
    fan_out: int
    mean_output: float
    output_sigma: float
    known: bool
    grouped: bool
    seed: int

    @property
    def name(self) -> str:
        """For test ids and tables."""
        known = "known" if self.known else "sampled"
        return (
            f"{self.seed}-{self.family}-{self.pool_tokens // 1000}k-path{self.path_ratio:.2f}"
            f"-deep{self.depth}-fan{self.fan_out}-out{self.mean_output:.0f}-{known}"
        )


def tree_specs(num: int) -> list[TreeSpec]:
    """The first `num` jobs, the families in turn; number k is the same however many are asked for."""
    return [_spec(seed) for seed in range(num)]


def _spec(seed: int) -> TreeSpec:
    rng = np.random.default_rng([19, seed])
    family = FAMILIES[seed % len(FAMILIES)]
    depth = int(rng.choice([2, 4, 8, 16, 32]))
    return TreeSpec(
        family=family,
        pool_tokens=int(rng.choice([40_000, 100_000, 200_000, 444_403])),
        path_ratio=float(rng.choice([0.02, 0.1, 0.25, 0.45, 0.6, 0.8])),
        depth=depth,
        fan_out=int(rng.choice([2, 3, 6, 20])),
        mean_output=float(rng.choice([5, 50, 300, 1200])),
        output_sigma=float(rng.choice([0.3, 1.0, 1.5])),
        known=bool(rng.random() < 0.5),
        grouped=bool(rng.random() < 0.5),
        seed=seed,
    )


class _Tree:
    """Segments as they are added, each with tokens of its own."""

    def __init__(self) -> None:
        self.parent: list[int] = [-1]
        self.length: list[int] = [0]
        self.depth: list[int] = [0]

    def add(self, parent: int, length: int) -> int:
        self.parent.append(parent)
        self.length.append(max(length, 1))
        self.depth.append(self.depth[parent] + self.length[-1])
        return len(self.parent) - 1

    def path(self, node: int) -> list[int]:
        nodes = []
        while node > 0:
            nodes.append(node)
            node = self.parent[node]
        return nodes[::-1]


def make_tree(spec: TreeSpec) -> tuple[RequestTable, IntArray]:
    """The requests of a job, in random line order, and their true output lengths, (n,) int64 tokens."""
    rng = np.random.default_rng([23, spec.seed])
    tree = _Tree()
    ends: list[int] = []  # the last segment of each request
    scale: list[float] = []  # of its output length
    tokens = 0
    grow = {
        "turns": _conversation,
        "branches": _branches,
        "questions": _questions,
        "attempts": _attempts,
        "mixture": _conversation,
    }[spec.family]
    system = tree.add(0, int(rng.integers(1, 400))) if rng.random() < 0.5 else 0
    while tokens < min(_MOST_PROMPT_TOKENS, 30 * spec.pool_tokens) and len(ends) < 300:
        before = len(ends)
        ends += grow(spec, tree, system, rng)
        like = float(np.exp(rng.normal(0.0, spec.output_sigma / 2)))
        scale += [like] * (len(ends) - before)
        tokens += sum(tree.depth[end] for end in ends[before:])
    if spec.family == "mixture":
        num_short = int(rng.choice([40, 100, 300]))
        ends += [tree.add(0, int(rng.integers(20, 300))) for _ in range(num_short)]
        scale += [max(600.0, spec.mean_output) / spec.mean_output] * num_short
    within = spec.output_sigma / 2
    output = spec.mean_output * np.array(scale) * np.exp(rng.normal(0.0, within, len(ends)))
    output_len = np.clip(np.rint(output), 1, min(8000, spec.pool_tokens // 8)).astype(np.int64)
    return _table(spec, tree, ends, output_len, rng)


def _table(
    spec: TreeSpec, tree: _Tree, ends: list[int], output_len: IntArray, rng: np.random.Generator
) -> tuple[RequestTable, IntArray]:
    place = np.arange(len(tree.length)) if spec.grouped else rng.permutation(len(tree.length))
    first = np.empty(len(tree.length), np.int64)
    by_place = np.argsort(place)
    length = np.array(tree.length)
    first[by_place] = np.cumsum(length[by_place]) - length[by_place]
    lines = rng.permutation(len(ends))
    prompts = []
    for line in lines.tolist():
        pieces = [
            np.arange(first[node], first[node] + length[node], dtype=np.int32)
            for node in tree.path(ends[line])
        ]
        prompts.append(np.concatenate(pieces))
    offsets = np.zeros(len(prompts) + 1, np.int64)
    np.cumsum([len(prompt) for prompt in prompts], out=offsets[1:])
    output_len = output_len[lines]
    caps = 2 ** np.ceil(np.log2(output_len + 1)).astype(np.int64)
    table = RequestTable(
        token_ids=np.concatenate(prompts),
        offsets=offsets,
        max_new_tokens=caps,
        fixed_output=np.zeros(len(prompts), np.bool_),
        namespace=np.zeros(len(prompts), np.int32),
    )
    return table, output_len


def _path_len(spec: TreeSpec, rng: np.random.Generator) -> int:
    """Tokens of one path: up to the longest."""
    return max(64, int(spec.path_ratio * spec.pool_tokens * rng.beta(2.0, 1.0)))


def _conversation(spec: TreeSpec, tree: _Tree, root: int, rng: np.random.Generator) -> list[int]:
    num_turns = int(rng.integers(1, spec.depth + 1))
    segment = _path_len(spec, rng) / spec.depth
    node, ends = root, []
    for _ in range(num_turns):
        node = tree.add(node, int(segment * rng.uniform(0.2, 1.0)))
        ends.append(node)
    return ends


def _branches(spec: TreeSpec, tree: _Tree, root: int, rng: np.random.Generator) -> list[int]:
    depth = min(spec.depth, int(np.log(600) / np.log(spec.fan_out)))
    segment = _path_len(spec, rng) / depth
    level = [root]
    for _ in range(depth):
        level = [
            tree.add(node, int(segment * rng.uniform(0.2, 1.0)))
            for node in level
            for _ in range(int(rng.integers(1, spec.fan_out + 1)))
        ]
    return [tree.add(node, int(rng.integers(10, 200))) for node in level]


def _questions(spec: TreeSpec, tree: _Tree, root: int, rng: np.random.Generator) -> list[int]:
    document = tree.add(root, _path_len(spec, rng))
    burst = spec.fan_out * int(rng.integers(1, 5))
    return [tree.add(document, int(rng.integers(10, 400))) for _ in range(burst)]


def _attempts(spec: TreeSpec, tree: _Tree, root: int, rng: np.random.Generator) -> list[int]:
    segment = _path_len(spec, rng) / spec.depth
    trunk, ends = root, []
    for _ in range(spec.depth):
        tries = [
            tree.add(trunk, int(segment * rng.uniform(0.1, 0.5)))
            for _ in range(int(rng.integers(1, spec.fan_out + 1)))
        ]
        ends += tries
        trunk = tree.add(tries[0], int(segment * rng.uniform(0.1, 0.5)))
    return ends
