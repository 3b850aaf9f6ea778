"""The batched torch_native attention gives what SGLang's own gives."""

from typing import Any

import pytest

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")

NUM_SLOTS, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 4000, 6, 2, 16


@pytest.fixture(scope="module", params=range(6))
def batch(request: pytest.FixtureRequest) -> Any:
    """A random batch: KV cache, slots, lengths (1 to 400) and cached prefix lengths."""
    random = torch.Generator().manual_seed(request.param)
    bs = [1, 2, 3, 8, 17, 40][request.param]
    seq_lens = torch.randint(1, 400, (bs,), generator=random)
    prefix_lens = (seq_lens * torch.rand(bs, generator=random)).long().clamp(max=seq_lens - 1)
    return {
        "k_cache": torch.randn(NUM_SLOTS, NUM_KV_HEADS, HEAD_DIM, generator=random),
        "v_cache": torch.randn(NUM_SLOTS, NUM_KV_HEADS, HEAD_DIM, generator=random),
        "req_to_token": torch.randint(1, NUM_SLOTS, (64, 512), generator=random).int(),
        "req_pool_indices": torch.randperm(64, generator=random)[:bs],
        "seq_lens": seq_lens,
        "prefix_lens": prefix_lens,
        "random": random,
    }


@pytest.fixture(scope="module")
def backends() -> Any:
    """SGLang's and ours, without a model runner: the attention methods need none."""
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

    from sglang_blend.srt.cpu.attention import BatchedAttnBackend

    return object.__new__(TorchNativeAttnBackend), object.__new__(BatchedAttnBackend)


def both(backends: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
    theirs, ours = backends
    ours._decode_groups = ours._extend_pieces = None
    query = args[0]
    return (
        getattr(theirs, method)(query, torch.zeros_like(query), *args[1:], **kwargs),
        getattr(ours, method)(query, torch.zeros_like(query), *args[1:], **kwargs),
    )


def test_decode_is_equal(batch: Any, backends: Any) -> None:
    query = torch.randn(len(batch["seq_lens"]), NUM_HEADS, HEAD_DIM, generator=batch["random"])
    names = ("k_cache", "v_cache", "req_to_token", "req_pool_indices", "seq_lens")
    theirs, ours = both(
        backends, "_run_sdpa_forward_decode", query, *(batch[n] for n in names), scaling=0.25, enable_gqa=True
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_extend_is_equal(batch: Any, backends: Any) -> None:
    extend_lens = batch["seq_lens"] - batch["prefix_lens"]
    query = torch.randn(int(extend_lens.sum()), NUM_HEADS, HEAD_DIM, generator=batch["random"])
    names = ("k_cache", "v_cache", "req_to_token", "req_pool_indices", "seq_lens", "prefix_lens")
    theirs, ours = both(
        backends, "_run_sdpa_forward_extend", query, *(batch[n] for n in names), extend_lens,
        scaling=0.25, enable_gqa=True, causal=True,
    )  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
