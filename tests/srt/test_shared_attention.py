"""Attention that reads shared prefixes once gives what SGLang's own torch_native gives."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention.batches import FREE, RadixSlots, break_evens

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")

NUM_SLOTS, MAX_LEN, NUM_ROWS = 4000, 400, 16

# Largest difference from SGLang's result in float32 on the same values: in 16 bits that of rounding.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
dtypes = st.sampled_from(list(TOLERANCE))


@st.composite
def batches(draw: Any) -> Any:
    """Requests over a random tree: what each has, of which how much is cached; heads and their size."""
    stems = draw(st.lists(st.integers(0, 60), min_size=1, max_size=3))
    parts = draw(
        st.lists(
            st.tuples(
                st.integers(0, len(stems) - 1), st.integers(0, 1), st.integers(0, 40),
                st.integers(1, 20), st.floats(0, 1),
            ),
            min_size=1,
            max_size=10,
        )
    )  # fmt: skip
    prompts, prefix_lens = [], []
    for number, (stem, branch, branch_len, own, extra) in enumerate(parts):
        shared = [stem] * stems[stem] + [10 + branch] * branch_len
        prompts.append(shared + [1000 + number] * own)
        prefix_lens.append(len(shared) + int(extra * (own - 1)))
    heads = draw(st.sampled_from([(1, 1), (4, 4), (6, 2), (9, 3)]))
    return prompts, prefix_lens, heads, draw(st.sampled_from([8, 16])), draw(st.integers(0, 2**31))


class _Inputs:
    """Tensors of a batch, as a model runner hands them to a backend."""

    def __init__(self, batch: tuple[Any, ...], dtype: Any) -> None:
        prompts, prefix_lens, heads, head_dim, seed = batch
        random = torch.Generator().manual_seed(seed)
        radix, shuffled = RadixSlots(), torch.randperm(NUM_SLOTS - 1, generator=random) + 1
        self.req_to_token = torch.zeros(NUM_ROWS, MAX_LEN, dtype=torch.int32)
        self.req_pool_indices = torch.randperm(NUM_ROWS, generator=random)[: len(prompts)]
        for row, tokens in zip(self.req_pool_indices.tolist(), prompts, strict=True):
            self.req_to_token[row, : len(tokens)] = shuffled[radix.slots(tokens).astype(np.int64)].int()
        self.seq_lens = torch.tensor([len(p) for p in prompts])
        self.prefix_lens = torch.tensor(prefix_lens)
        num_heads, num_kv_heads = heads
        self.k_cache = torch.randn(NUM_SLOTS, num_kv_heads, head_dim, generator=random)
        self.v_cache = torch.randn(NUM_SLOTS, num_kv_heads, head_dim, generator=random)
        self.extend_lens = self.seq_lens - self.prefix_lens
        self.decode_query = torch.randn(len(prompts), num_heads, head_dim, generator=random)
        self.extend_query = torch.randn(int(self.extend_lens.sum()), num_heads, head_dim, generator=random)
        for name in ("k_cache", "v_cache", "decode_query", "extend_query"):
            setattr(self, name, getattr(self, name).to(dtype))

    @property
    def cache(self) -> Any:
        """What both attention methods take after query and output."""
        return self.k_cache, self.v_cache, self.req_to_token, self.req_pool_indices, self.seq_lens

    @property
    def float_cache(self) -> Any:
        """The same values in float32."""
        return self.k_cache.float(), self.v_cache.float(), *self.cache[2:]


def backends(break_even: Any) -> Any:
    """SGLang's and ours, without a model runner: the attention methods need none."""
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

    from sglang_blend.srt.cpu.shared_attention import SharedPrefixAttnBackend

    ours = object.__new__(SharedPrefixAttnBackend)
    ours.start_sharing(break_even)
    ours._decode_groups = ours._extend_pieces = None
    return object.__new__(TorchNativeAttnBackend), ours


@settings(deadline=None)
@given(batches(), break_evens, dtypes)
def test_decode_is_equal(batch: Any, break_even: Any, dtype: Any) -> None:
    inputs, (theirs, ours) = _Inputs(batch, dtype), backends(break_even)
    query, wide = inputs.decode_query, inputs.decode_query.float()
    kwargs = {"scaling": 0.25, "enable_gqa": True}
    expected = theirs._run_sdpa_forward_decode(wide, torch.zeros_like(wide), *inputs.float_cache, **kwargs)
    found = ours._run_sdpa_forward_decode(query, torch.zeros_like(query), *inputs.cache, **kwargs)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@settings(deadline=None)
@given(batches(), st.booleans(), dtypes)
def test_extend_is_equal(batch: Any, free: Any, dtype: Any) -> None:
    from sglang_blend.srt.cpu import shared_attention

    inputs, (theirs, ours) = _Inputs(batch, dtype), backends(FREE)
    query, wide = inputs.extend_query, inputs.extend_query.float()
    lens = (inputs.prefix_lens, inputs.extend_lens)
    kwargs = {"scaling": 0.25, "enable_gqa": True, "causal": True}
    expected = theirs._run_sdpa_forward_extend(
        wide, torch.zeros_like(wide), *inputs.float_cache, *lens, **kwargs
    )
    with pytest.MonkeyPatch.context() as patch:
        if free:
            patch.setattr(shared_attention, "CPU", FREE)
            patch.setattr(shared_attention, "_EXTEND_TOKENS_PER_QUERY", 0.0)
        found = ours._run_sdpa_forward_extend(query, torch.zeros_like(query), *inputs.cache, *lens, **kwargs)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_a_decode_step_reads_a_shared_prefix_once() -> None:
    """Three requests of 102 tokens, 100 of them shared: 106 tokens are read."""
    prompts = [[0] * 100 + [n] * 2 for n in (1, 2, 3)]
    inputs, (_, ours) = _Inputs((prompts, [0] * 3, (6, 2), 8, 0), torch.float32), backends(FREE)
    query = inputs.decode_query
    ours._run_sdpa_forward_decode(query, torch.zeros_like(query), *inputs.cache, scaling=0.25)
    counts = ours.read_counts
    assert counts.decode_tokens - counts.decode_saved_tokens == 106
    assert (counts.shared_decode_steps, counts.most_readers) == (1, 3)
