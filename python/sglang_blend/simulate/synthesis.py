"""Re-makes the paper's workloads for any model and hardware: a source, long outputs and shared prefixes.

`synthesise(cost, SynthesisSpec(density=1.4, sharing=0.35), seed=0)` mixes the three kinds of requests so
that the whole job has the wanted compute density and prefix sharing on that cost model. `paper_trace(1)` to
`paper_trace(4)` are the main traces, `paper_grid()` the 65 points. The same spec and seed give the same
tokens.

Source: BlendServe section 6.2: one of four traces plus OpenVid for the density, then MMLU for the sharing,
a system prompt for each; random token ids where no text is published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.request import RequestTable
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.errors import PlanError
from sglang_blend.simulate.sources import SOURCES, Source, draw_lengths

_VOCAB = 32000


@dataclass(frozen=True, kw_only=True)
class SynthesisSpec:
    """What to make.

    Attributes:
        density: compute density of the whole job with full sharing, (1 - s) T_comp / T_mem.
        sharing: prefix sharing ratio s, of compute time, 0 to 1.
        num_requests: requests in all.
        source, long_output, shared_prefix: names in SOURCES (or sources themselves).
        system_prompt_len: tokens that all requests of a source begin with.
    """

    density: float
    sharing: float
    num_requests: int = 10_000
    source: str | Source = "burstgpt"
    long_output: str | Source = "openvid-short"
    shared_prefix: str | Source = "mmlu"
    system_prompt_len: int = 4


@dataclass(frozen=True, kw_only=True)
class SynthesisedTrace:
    """A made workload.

    Attributes:
        table: the requests, shuffled; caps are exact for sources whose output length is known.
        output_len: (n,) int64, true output lengths.
        source: (n,) int64, index into `source_names`.
        source_names: names of the three kinds.
        density, sharing: what was reached, computed from the lengths.
    """

    table: RequestTable
    output_len: IntArray
    source: IntArray
    source_names: tuple[str, ...]
    density: float
    sharing: float


_PAPER_TRACES = {1: (1.4, 0.35), 2: (0.9, 0.35), 3: (1.4, 0.05), 4: (0.9, 0.05)}


def paper_trace(number: int, *, num_requests: int = 10_000) -> SynthesisSpec:
    """The paper's main trace 1 to 4: BurstGPT + MMLU + OpenVid.

    Raises:
        PlanError: no such trace.
    """
    if number not in _PAPER_TRACES:
        raise PlanError(
            f"paper trace {number} does not exist; allowed are {', '.join(map(str, _PAPER_TRACES))}"
        )
    density, sharing = _PAPER_TRACES[number]
    return SynthesisSpec(density=density, sharing=sharing, num_requests=num_requests)


def paper_grid(*, num_requests: int = 10_000) -> list[SynthesisSpec]:
    """The paper's 65 points: density 0.80 to 1.40 by 0.05, sharing 0.05 to 0.45 by 0.10."""
    return [
        SynthesisSpec(
            density=round(0.80 + 0.05 * i, 2), sharing=round(0.05 + 0.10 * j, 2), num_requests=num_requests
        )
        for i in range(13)
        for j in range(5)
    ]


@dataclass(frozen=True, kw_only=True)
class _Pool:
    """Lengths drawn for one source; the first `k` of them are what `k` requests of it look like."""

    source: Source
    prompt_len: IntArray  # the whole prompt: system prompt, group prefix, own part
    output_len: IntArray
    group: IntArray
    group_prefix_len: IntArray  # system prompt and group prefix of each group
    saved_s: FloatArray  # compute that sharing saves a request, if it is not its group's first
    alone_s: FloatArray
    memory_s: FloatArray

    def first_cost_s(self, num: int, cost: RooflineCost, system_len: int) -> float:
        """Compute seconds of the prefixes themselves, each paid once, among the first `num` requests."""
        if not num:
            return 0.0
        seen = np.unique(self.group[:num])
        prefix = self.group_prefix_len[seen]
        system = np.full(len(prefix), system_len)
        own = cost.extend_compute_s(system, prefix - system).sum()
        return float(own + cost.extend_compute_s(np.zeros(1, np.int64), np.array([system_len]))[0])


def synthesise(cost: RooflineCost, spec: SynthesisSpec, *, seed: int) -> SynthesisedTrace:
    """Draws a workload with the wanted density and sharing.

    Args:
        cost: the model and hardware that density and sharing refer to.
        spec: targets and sources.
        seed: of every random choice.

    Raises:
        PlanError: the targets cannot be reached with these sources and this many requests.
    """
    if not (0 < spec.density < np.inf and 0 <= spec.sharing < 1 and spec.num_requests >= 3):
        raise PlanError(
            f"density {spec.density}, sharing {spec.sharing} and {spec.num_requests} requests were "
            "asked for; allowed are a "
            "density above 0, a sharing of 0 up to 1 and at least 3 requests"
        )
    rng = np.random.default_rng(seed)
    kinds = [_named(kind) for kind in (spec.source, spec.long_output, spec.shared_prefix)]
    # Few requests cannot hold 57 groups: keep at least about 20 requests a group.
    kinds = [
        replace(k, num_groups=min(k.num_groups, max(1, spec.num_requests // 60))) if k.num_groups else k
        for k in kinds
    ]
    pools = [_draw_pool(kind, spec, cost, rng) for kind in kinds]
    counts = _solve_counts(pools, spec, cost)
    density, sharing = _achieved(pools, counts, spec, cost)
    table, output_len, source = _build_table(pools, counts, spec, rng)
    return SynthesisedTrace(
        table=table,
        output_len=output_len,
        source=source,
        source_names=tuple(k.name for k in kinds),
        density=density,
        sharing=sharing,
    )


def _named(source: str | Source) -> Source:
    if isinstance(source, Source):
        return source
    if source not in SOURCES:
        raise PlanError(
            f"source {source!r} is unknown; allowed are {', '.join(SOURCES)}, or read a trace CSV"
        )
    return SOURCES[source]


def _draw_pool(source: Source, spec: SynthesisSpec, cost: RooflineCost, rng: np.random.Generator) -> _Pool:
    num = spec.num_requests
    own_len, output_len = draw_lengths(source, num, rng)
    groups = max(source.num_groups, 1)
    prefix = np.full(groups, spec.system_prompt_len, dtype=np.int64)
    if source.num_groups and source.group_prefix is not None:
        prefix = prefix + source.group_prefix.draw(groups, rng)
    group = rng.integers(0, groups, num)
    prompt_len = own_len + prefix[group]
    zero = np.zeros(num, np.int64)
    return _Pool(
        source=source,
        prompt_len=prompt_len,
        output_len=output_len,
        group=group,
        group_prefix_len=prefix,
        saved_s=cost.extend_compute_s(zero, prefix[group]),
        alone_s=cost.compute_s(prompt_len, output_len),
        memory_s=cost.memory_s(prompt_len, output_len),
    )


def _solve_counts(pools: list[_Pool], spec: SynthesisSpec, cost: RooflineCost) -> list[int]:
    """How many requests of each source: three linear equations in the means of those taken, repeated as
    these change.
    """
    counts = np.full(3, spec.num_requests / 3.0)
    for _ in range(30):
        taken = [max(1, min(round(float(c)), spec.num_requests)) for c in counts]
        alone = np.array([p.alone_s[:k].mean() for p, k in zip(pools, taken, strict=True)])
        memory = np.array([p.memory_s[:k].mean() for p, k in zip(pools, taken, strict=True)])
        saved = np.array([p.saved_s[:k].mean() for p, k in zip(pools, taken, strict=True)])
        paid = sum(p.first_cost_s(k, cost, spec.system_prompt_len) for p, k in zip(pools, taken, strict=True))
        system = np.array([np.ones(3), saved - spec.sharing * alone, alone - saved - spec.density * memory])
        counts = np.linalg.solve(system, np.array([spec.num_requests, paid, -paid]))
    if counts.min() < -0.5 or not np.isfinite(counts).all():
        names = ", ".join(f"{p.source.name} {c:.0f}" for p, c in zip(pools, counts, strict=True))
        raise PlanError(
            f"density {spec.density} with sharing {spec.sharing} cannot be made of these sources on "
            "this hardware "
            f"(it would take {names} requests); choose other targets or sources"
        )
    whole = [max(0, round(float(c))) for c in counts]
    whole[0] = spec.num_requests - whole[1] - whole[2]
    return whole


def _achieved(
    pools: list[_Pool], counts: list[int], spec: SynthesisSpec, cost: RooflineCost
) -> tuple[float, float]:
    pairs = list(zip(pools, counts, strict=True))
    alone = sum(float(p.alone_s[:k].sum()) for p, k in pairs)
    memory = sum(float(p.memory_s[:k].sum()) for p, k in pairs)
    saved = sum(
        float(p.saved_s[:k].sum()) - p.first_cost_s(k, cost, spec.system_prompt_len) for p, k in pairs
    )
    return (alone - saved) / memory, saved / alone


def _build_table(
    pools: list[_Pool], counts: list[int], spec: SynthesisSpec, rng: np.random.Generator
) -> tuple[RequestTable, IntArray, IntArray]:
    """Token ids: random, with each group's prefix copied in; sources differ from the first token on."""
    pairs = list(zip(pools, counts, strict=True))
    prompt_len = np.concatenate([p.prompt_len[:k] for p, k in pairs])
    output_len = np.concatenate([p.output_len[:k] for p, k in pairs])
    source = np.repeat(np.arange(3), counts)
    group = np.concatenate([p.group[:k] for p, k in pairs])
    caps = np.concatenate([_caps(p, k) for p, k in pairs])
    fixed = np.repeat([p.source.output_known for p in pools], counts)
    first_tokens = rng.permutation(np.arange(10, 10 + len(pools)))
    prefixes = [
        _prefixes(p, int(first), spec.system_prompt_len, rng)
        for p, first in zip(pools, first_tokens, strict=True)
    ]
    shuffled = rng.permutation(spec.num_requests)
    prompt_len, output_len, source, group = (
        prompt_len[shuffled],
        output_len[shuffled],
        source[shuffled],
        group[shuffled],
    )
    offsets = np.concatenate([[0], np.cumsum(prompt_len)]).astype(np.int64)
    token_ids = rng.integers(100, _VOCAB, int(offsets[-1]), dtype=np.int32)
    for row, (kind, member) in enumerate(zip(source.tolist(), group.tolist(), strict=True)):
        prefix = prefixes[kind][member]
        token_ids[offsets[row] : offsets[row] + len(prefix)] = prefix
    table = RequestTable(
        token_ids=token_ids,
        offsets=offsets,
        max_new_tokens=caps[shuffled],
        fixed_output=fixed[shuffled].astype(np.bool_),
        namespace=np.zeros(spec.num_requests, np.int32),
    )
    return table, output_len, source


def _caps(pool: _Pool, num: int) -> IntArray:
    """max_new_tokens: exact where the length is known, else one cap for the source, as users write it."""
    if pool.source.output_known or not num:
        return pool.output_len[:num]
    return np.full(num, int(pool.output_len.max()), dtype=np.int64)


def _prefixes(
    pool: _Pool, first_token: int, system_len: int, rng: np.random.Generator
) -> list[NDArray[np.int32]]:
    system = rng.integers(100, _VOCAB, system_len, dtype=np.int32)
    system[:1] = first_token
    # A group begins with its number, so that groups part exactly after the system prompt.
    out = []
    for number, length in enumerate(pool.group_prefix_len.tolist()):
        own = rng.integers(100, _VOCAB, length - system_len, dtype=np.int32)
        own[:1] = number
        out.append(np.concatenate([system, own]))
    return out
