"""Made workloads have the density and sharing that was asked for, on any model and hardware."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sglang_blend.core.prefix_tree import build_prefix_tree
from sglang_blend.cost.bounds import bounds_of
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.segments import segments_of
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.errors import InputError, PlanError
from sglang_blend.simulate.sources import SOURCES, draw_lengths, read_trace
from sglang_blend.simulate.synthesis import SynthesisSpec, paper_grid, paper_trace, synthesise
from sglang_blend.simulate.trace_file import table_from_trace
from shared_folder import shared_file
from simulate.jobs import COST

H200_70B = RooflineCost(shape=model_shape("llama-3.1-70b"), hardware=hardware("H200"), tp_size=4)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("cost", "long_output", "num_requests"),
    [(COST, "openvid-short", 4000), (H200_70B, "openvid", 6000)],
    ids=["8B on A100", "70B on 4 H200"],
)
def test_main_traces_have_their_density_and_sharing(
    number: int, cost: Any, long_output: str, num_requests: int
) -> None:
    """Recounted from the tokens, not from what the synthesis says of itself: density within 2%, sharing
    within 0.01.
    """
    spec = replace(paper_trace(number, num_requests=num_requests), long_output=long_output)
    trace = synthesise(cost, spec, seed=number)
    tree = segments_of(build_prefix_tree(trace.table))
    assert bounds_of(tree, trace.output_len, cost, 0.0).density == pytest.approx(spec.density, rel=0.02)
    # The prefix sharing ratio s: the share of compute time that full sharing saves (BlendServe section 3.3).
    alone = cost.compute_s(tree.prompt_len, trace.output_len).sum()
    prefill_alone = cost.extend_compute_s(np.zeros_like(tree.prompt_len), tree.prompt_len).sum()
    sharing = (prefill_alone - tree.prefill_compute_s(cost)) / alone
    assert sharing == pytest.approx(spec.sharing, abs=0.01)
    assert (trace.output_len <= trace.table.max_new_tokens).all()
    assert trace.table.n == num_requests


def test_the_grid_has_the_papers_65_points() -> None:
    """Density 0.80 to 1.40 by 0.05, sharing 5% to 45% by 10."""
    points = {(spec.density, spec.sharing) for spec in paper_grid()}
    assert len(points) == 65
    assert {(0.8, 0.05), (1.4, 0.45), (1.05, 0.25)} <= points


def test_a_trace_for_one_machine_has_another_density_on_the_next() -> None:
    """Densities shrink with FLOP/s over bandwidth, so traces are re-made for each machine, as the paper
    does.
    """
    trace = synthesise(COST, paper_trace(1, num_requests=3000), seed=0)
    h200 = RooflineCost(shape=COST.shape, hardware=hardware("H200"))
    tree = segments_of(build_prefix_tree(trace.table))
    ratio = (250 / 1.76) / (790 / 4.3)
    assert bounds_of(tree, trace.output_len, h200, 0.0).density == pytest.approx(1.4 * ratio, rel=0.02)


def test_same_seed_same_tokens() -> None:
    """And another seed gives others."""
    spec = paper_trace(2, num_requests=500)
    first, again, other = (synthesise(COST, spec, seed=s) for s in (5, 5, 6))
    assert first.table.token_ids.tobytes() == again.table.token_ids.tobytes()
    assert first.output_len.tobytes() == again.output_len.tobytes()
    assert first.table.token_ids.tobytes() != other.table.token_ids.tobytes()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_drawn_lengths_have_the_published_means(name: Any) -> None:
    """Within 5% over 20,000 draws, inside their range."""
    source = SOURCES[name]
    prompt, output = draw_lengths(source, 20_000, np.random.default_rng(0))
    assert source.prompt is not None
    assert source.output is not None
    assert prompt.mean() == pytest.approx(source.prompt.mean, rel=0.05)
    assert output.mean() == pytest.approx(source.output.mean, rel=0.05)
    assert prompt.min() >= source.prompt.low
    assert output.max() <= source.output.high


def test_a_trace_file_may_be_the_source() -> None:
    """Rows are drawn together: prompt and output of one request stay one request's."""
    source = read_trace(shared_file("traces/azure_2023_conv.csv"))
    spec = SynthesisSpec(density=2.0, sharing=0.2, num_requests=3000, source=source)
    trace = synthesise(COST, spec, seed=0)
    assert trace.density == pytest.approx(2.0, rel=0.02)
    assert source.trace is not None
    rows = {(p, o) for p, o in source.trace.tolist()}
    own = np.flatnonzero(trace.source == 0)[:200]
    system = spec.system_prompt_len
    assert all((int(trace.table.prompt_len[i]) - system, int(trace.output_len[i])) in rows for i in own)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"density": 40.0, "sharing": 0.05}, "cannot be made of these sources"),
        ({"density": 1.0, "sharing": 0.97}, "cannot be made of these sources"),
        ({"density": -1.0, "sharing": 0.1}, "density -1.0"),
        ({"density": float("nan"), "sharing": 0.1}, "density nan"),
        ({"density": 1.0, "sharing": 1.0}, "sharing 1.0"),
        ({"density": 1.0, "sharing": 0.1, "num_requests": 2}, "2 requests"),
        ({"density": 1.0, "sharing": 0.1, "source": "reddit"}, "source 'reddit' is unknown"),
    ],
)
def test_targets_out_of_reach_are_refused(changes: Any, words: str) -> None:
    """One sentence with the targets."""
    with pytest.raises(PlanError, match=words):
        synthesise(COST, SynthesisSpec(**changes), seed=0)


def test_hash_blocks_become_shared_tokens() -> None:
    """Mooncake's block ids: as much sharing in tokens as in blocks, up to partly filled ones."""
    table, output_len = table_from_trace(
        shared_file("traces/mooncake_conversation_blocks.jsonl.gz"), limit=400
    )
    assert table.n == len(output_len) == 400
    tree = build_prefix_tree(table)
    assert 0.1 < tree.sharing_possible < 0.6
    assert int(table.prompt(0)[0]) == int(table.prompt(1)[0])  # all begin with block 0
    assert tree.lcp.max() >= 512


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "a,b\n1,2\n", "lacks the column 'prompt_tokens'"),
        ("t.csv", "prompt_tokens,output_tokens\n5,x\n", "line 2"),
        ("t.csv", "prompt_tokens,output_tokens\n5,nan\n", "line 2"),
        ("t.csv", "prompt_tokens,output_tokens\n5,3\n-5,3\n", "line 3"),
        ("t.csv", "prompt_tokens,output_tokens\n0,3\n", "prompt from 1"),
        ("t.csv", "prompt_tokens,output_tokens\n", "has no requests"),
        ("t.jsonl", "{}\n", "line 1 is not a request"),
        ("t.jsonl", '{"prompt_tokens":600,"output_tokens":1,"hash_ids":[1]}\n', "do not cover 600"),
        ("t.jsonl", '{"prompt_tokens":6,"output_tokens":-1,"hash_ids":[1]}\n', "line 1"),
        ("t.jsonl", "", "has no requests"),
    ],
)
def test_trace_files_that_make_no_job_are_refused(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    """The sentence names the file and the line."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        table_from_trace(path)
    with pytest.raises(InputError, match="cannot be read"):
        table_from_trace(tmp_path / f"absent-{name}")
