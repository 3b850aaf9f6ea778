"""Cost formulas against the paper's figures, brute-force sums, and measured kernels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.measured import read_mlp_profile
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.errors import ConfigError
from shared_folder import shared_file


def paper_cost(pool_tokens: int | None = None) -> RooflineCost:
    """The paper's formulas as printed: vendor peaks, no prefill attention (BlendServe section 4)."""
    shape, machine = model_shape("llama-3-8b"), hardware("A100").at_peak()
    return RooflineCost(shape=shape, hardware=machine, count_attention=False, pool_tokens=pool_tokens)


PAPER = paper_cost()  # 312 TFLOP/s, 2.039 TB/s, 8.03e9 parameters


def density(prompt_len: int, output_len: int) -> float:
    """Compute density of one request with the paper's formulas."""
    prompt, output = np.array([prompt_len]), np.array([output_len])
    return float(PAPER.compute_s(prompt, output)[0] / PAPER.memory_s(prompt, output)[0])


@pytest.mark.parametrize(
    ("prompt_len", "output_len", "printed", "tolerance"),
    [
        (496, 510, 2.13, 0.02),  # WildChat
        (2508, 23, 33.2, 0.06),  # Azure
        (121, 43726, 0.05, 0.35),  # OpenVid: 0.0365, which rounds to 0.04; the paper prints 0.05
    ],
)
def test_density_of_the_papers_sources(
    prompt_len: int, output_len: int, printed: float, tolerance: float
) -> None:
    """Figure 2's mean lengths in section 4's formulas give Table 4's densities."""
    assert density(prompt_len, output_len) == pytest.approx(printed, rel=tolerance)


@pytest.mark.parametrize(
    ("prompt_len", "output_len", "printed", "computed"), [(244, 27, 17.78, 31.2), (109, 7617, 0.14, 0.207)]
)
def test_where_the_papers_density_table_disagrees_with_its_formulas(
    prompt_len: int, output_len: int, printed: float, computed: float
) -> None:
    """BurstGPT and LIMO: mean lengths give 31.2 and 0.207, the paper prints 17.78 and 0.14.

    Means under-count E[d^2], so the density of a trace with spread is below that of its mean lengths; both
    printed figures are below. The formulas are kept.
    """
    assert density(prompt_len, output_len) == pytest.approx(computed, rel=0.01)
    assert printed < 0.75 * density(prompt_len, output_len)


def test_mmlu_density_includes_its_sharing() -> None:
    """Table 4 prints 54.91 for MMLU: the raw 401 times 1 - 0.8646, its prefix sharing ratio."""
    assert density(804, 2) == pytest.approx(401, rel=0.01)
    assert density(804, 2) * (1 - 0.8646) == pytest.approx(54.91, rel=0.02)


@pytest.mark.parametrize(
    ("batch_size", "gemm_ms", "attention_ms"),
    [(512, 1.087, 1.317), (768, 1.537, 1.913), (1024, 2.005, 2.515)],
)
def test_effective_rates_give_the_times_that_table_1_measured(
    batch_size: int, gemm_ms: float, attention_ms: float
) -> None:
    """One layer at context 1024 on an A100: GEMM within 6%, the paper's own largest error, attention within
    8%.
    """
    cost = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("A100"))
    assert cost.gemm_s(batch_size, batch_size) / 32 * 1e3 == pytest.approx(gemm_ms, rel=0.06)
    assert batch_size * 1024 * cost.kv_read_s[0] / 32 * 1e3 == pytest.approx(attention_ms, rel=0.08)


def test_worked_example_of_the_kv_pool() -> None:
    """80 GB with 20 GB of weights and buffers leaves 60 GB: about 458k tokens of 131,072 bytes."""
    cost = paper_cost(pool_tokens=int(60e9 / 131072))
    assert cost.kv_pool_tokens == 457763


lengths = st.integers(0, 300)


@given(prompt_len=lengths, output_len=lengths)
def test_memory_and_attention_are_the_sums_they_stand_for(prompt_len: Any, output_len: Any) -> None:
    """Closed forms against sums over tokens, with and without windows; the paper's d^2/2 stands for
    d(d+1)/2.
    """
    cost = RooflineCost(shape=model_shape("gemma-2-9b"), hardware=hardware("H200"))
    window, prompt, output = 4096.0, np.array([prompt_len * 40]), np.array([output_len])
    contexts = prompt_len * 40 + np.arange(output_len)
    full_s, window_s = cost.kv_read_s
    summed = (contexts * full_s + np.minimum(contexts, window) * window_s).sum()
    slack = output_len * (full_s + window_s)  # half a token a step
    assert cost.memory_s(prompt, output)[0] == pytest.approx(summed, abs=slack + 1e-15)
    seen = prompt_len * 40 + 1 + np.arange(output_len)
    pair_full, pair_window = cost.pair_s
    attention = (seen * pair_full + np.minimum(seen, window) * pair_window).sum()
    extend = cost.extend_compute_s(prompt, output)[0]
    assert extend == pytest.approx(output_len * cost.token_s + attention, rel=1e-3, abs=1e-15)


@given(first=st.integers(0, 5000), second=st.integers(0, 5000), more=st.integers(0, 5000))
def test_extending_twice_costs_as_much_as_once(first: Any, second: Any, more: Any) -> None:
    """A chunked prefill does the work of a whole one; a request is its prompt extended from nothing plus
    its output.
    """
    cost = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("A100"))
    a, b, c = (np.array([x]) for x in (first, second, more))
    zero = np.zeros(1, np.int64)
    whole = cost.extend_compute_s(a, b + c)
    assert cost.extend_compute_s(a, b) + cost.extend_compute_s(a + b, c) == pytest.approx(
        whole, rel=1e-9, abs=1e-15
    )
    assert cost.compute_s(a, b) == pytest.approx(
        cost.extend_compute_s(zero, a) + b * cost.decode_token_s, rel=1e-9, abs=1e-15
    )


def test_tensor_parallel_scales_rates_and_memory() -> None:
    """Four ranks compute and read four times as fast and have room for more than four times the KV."""
    one = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("A100"))
    four = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("A100"), tp_size=4)
    assert one.token_s == pytest.approx(4 * four.token_s)
    assert one.kv_read_s[0] == pytest.approx(4 * four.kv_read_s[0])
    assert four.kv_pool_tokens > 4 * one.kv_pool_tokens


def test_pool_sizes_are_those_of_the_study() -> None:
    """H200 with an 8B model: about 879k tokens (the study's card had 139 GiB)."""
    assert RooflineCost(
        shape=model_shape("llama-3-8b"), hardware=hardware("H200")
    ).kv_pool_tokens == pytest.approx(879e3, rel=0.01)


def test_mla_decode_is_bound_by_whichever_takes_longer() -> None:
    """DeepSeek's latent is read once for 128 heads, whose arithmetic then takes longer than the read."""
    cost = RooflineCost(shape=model_shape("deepseek-v3"), hardware=hardware("H200"), tp_size=8)
    read_s = cost.shape.kv_bytes_per_token() / cost.bytes_per_s
    assert cost.kv_read_s[0] > read_s
    gqa = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("H200"))
    assert gqa.kv_read_s[0] == pytest.approx(gqa.shape.kv_bytes_per_token() / gqa.bytes_per_s)


def test_measured_rates_take_precedence() -> None:
    """A profile's GEMM curve replaces the roofline, and agrees with it where the paper checked its model
    (Table 1).
    """
    curve = read_mlp_profile(shared_file("profiles/mlp_a100_Meta-Llama-3-8B.csv.gz"))
    shape = model_shape("llama-3-8b")
    measured = RooflineCost(shape=shape, hardware=hardware("A100"), gemm_curve=curve)
    roofline = RooflineCost(shape=shape, hardware=hardware("A100"))
    assert measured.token_s != roofline.token_s
    assert measured.token_s == pytest.approx(roofline.token_s, rel=0.1)
    assert measured.weight_s(1) == pytest.approx(roofline.weight_s(1), rel=0.15)
    # Linear inside, proportional beyond the last point, never below the smallest step.
    assert measured.gemm_s(65536, 0) == pytest.approx(2 * measured.gemm_s(32768, 0))
    assert measured.gemm_s(1, 0) <= measured.gemm_s(700, 0) <= measured.gemm_s(4096, 0)
    # Table 1 measured 2.005 ms for a layer group at batch 1024 against 1.087 at 512: the same growth
    # within 10%.
    assert measured.gemm_s(1024, 0) / measured.gemm_s(512, 0) == pytest.approx(2.005 / 1.087, rel=0.25)


def test_the_output_layer_counts_for_sampled_tokens_where_layers_are_measured() -> None:
    """At the roofline's rate beside a profile: its arithmetic for many rows, its weights for few."""
    curve = read_mlp_profile(shared_file("profiles/mlp_a100_Meta-Llama-3-8B.csv.gz"))
    cost = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("A100"), gemm_curve=curve)
    row_s = 2 * cost.shape.head_params / cost.flop_per_s
    read_s = 2 * cost.shape.head_params / cost.bytes_per_s
    assert cost.gemm_s(2048, 1000) - cost.gemm_s(2048, 0) == pytest.approx(1000 * row_s)
    assert cost.gemm_s(2048, 1) - cost.gemm_s(2048, 0) == pytest.approx(read_s)
    assert cost.decode_token_s - cost.token_s == pytest.approx(row_s)
    assert cost.weight_s(1) == pytest.approx(cost.gemm_s(1, 1), rel=0.02)


def test_profiles_without_the_degree_or_the_columns_are_refused(tmp_path: Path) -> None:
    """A sentence names what is missing."""
    with pytest.raises(ConfigError, match=r"no rows for tp_size 3; allowed are \[1, 2, 4, 8\]"):
        read_mlp_profile(shared_file("profiles/mlp_a100_Meta-Llama-3-8B.csv.gz"), tp_size=3)
    path = tmp_path / "p.csv"
    path.write_text("num_tokens\n1\n")
    with pytest.raises(ConfigError, match="lacks the column"):
        read_mlp_profile(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_mlp_profile(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tp_size": 0}, "tp_size is 0"),
        ({"mem_fraction": 1.5}, "mem_fraction is 1.5"),
        ({"pool_tokens": 0}, "kv pool is 0 tokens"),
        ({"shape": model_shape("llama-3.1-70b")}, "leaves no room for KV in 1 x A100-80"),
    ],
)
def test_impossible_engines_are_refused(changes: Any, words: str) -> None:
    """70B parameters do not fit one A100, and so on: one sentence each."""
    with pytest.raises(ConfigError, match=words):
        RooflineCost(**{"shape": model_shape("llama-3-8b"), "hardware": hardware("A100"), **changes})


def test_negative_and_nan_lengths_are_refused() -> None:
    """No silent garbage."""
    for bad in (np.array([-1]), np.array([np.nan])):
        with pytest.raises(ConfigError, match="prompt_len holds"):
            PAPER.compute_s(bad, np.array([1]))
