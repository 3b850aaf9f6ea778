"""Kinds of models beside plain attention: which pool, cache and attention they get, and that they run."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, WINDOW = 4, 2, 16, 8


def make_pools(size: int = 200, size_swa: int = 60) -> tuple[Any, Any]:
    """A pool of a layer with a window, 0, and a full one, 1; and what the platform allocates from it."""
    from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool

    from sglang_blend.srt.cpu.allocator import CpuTokenToKVPoolAllocator

    pool = SWAKVPool(
        size=size, size_swa=size_swa, page_size=1, dtype=torch.float32, head_num=NUM_KV_HEADS,
        head_dim=HEAD_DIM, swa_attention_layer_ids=[0], full_attention_layer_ids=[1], device="cpu",
    )  # fmt: skip
    kwargs = {"page_size": 1, "dtype": torch.float32, "device": "cpu", "kvcache": pool, "need_sort": False}
    return pool, CpuTokenToKVPoolAllocator(size_swa, **kwargs)


def test_layers_with_windows_get_the_allocator_of_two_pools() -> None:
    from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator

    _, allocator = make_pools()
    assert isinstance(allocator, SWATokenToKVPoolAllocator)
    assert (allocator.full_available_size(), allocator.swa_available_size()) == (200, 60)


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("window", [WINDOW, None])
@pytest.mark.parametrize("extend", [1, 5])
def test_a_layer_with_a_window_reads_its_own_pool(extend: int, window: int | None, is_shared: bool) -> None:
    """Equal to attention over keys that lie in order; slots of one pool are none of the other."""
    from sglang.srt.mem_cache.memory_pool import KVWriteLoc
    from torch.nn.functional import scaled_dot_product_attention

    from sglang_blend.srt.cpu.attention import BatchedAttnBackend
    from sglang_blend.srt.cpu.shared_attention import SharedPrefixAttnBackend

    pool, allocator = make_pools()
    allocator.alloc(20)
    first = allocator.full_attn_allocator.alloc(100)  # from here on the numbers of the two pools differ
    assert first is not None
    num = 30
    slots = allocator.alloc(num)
    table = torch.zeros((4, 64), dtype=torch.int32)
    table[2, :num] = slots
    k, v = torch.randn(2, num, NUM_KV_HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    layer = SimpleNamespace(
        layer_id=0, qk_head_dim=HEAD_DIM, v_head_dim=HEAD_DIM, tp_q_head_num=NUM_HEADS,
        tp_k_head_num=NUM_KV_HEADS, is_cross_attention=False, attn_type=None, scaling=0.25,
        sliding_window_size=-1 if window is None else window,
    )  # fmt: skip
    pool.set_kv_buffer(layer, KVWriteLoc(slots, pool.translate_loc_from_full_to_swa(slots)), k, v)
    if window is not None:
        allocator.free_swa(slots[: num - window - extend])  # they have left every window
    runner = SimpleNamespace(
        device="cpu", req_to_token_pool=SimpleNamespace(req_to_token=table), token_to_kv_pool=pool,
        server_args=SimpleNamespace(disable_overlap_schedule=True),
    )  # fmt: skip
    backend = (SharedPrefixAttnBackend if is_shared else BatchedAttnBackend)(runner)
    query = torch.randn(extend, NUM_HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(1))
    batch = SimpleNamespace(
        forward_mode=SimpleNamespace(is_extend=lambda: extend > 1),
        out_cache_loc=slots[-extend:],
        req_pool_indices=torch.tensor([2]),
        seq_lens=torch.tensor([num]),
        extend_prefix_lens=torch.tensor([num - extend]),
        extend_seq_lens=torch.tensor([extend]),
        encoder_lens=None,
    )
    backend.init_forward_metadata(batch)
    forward = backend.forward_extend if extend > 1 else backend.forward_decode
    found = forward(query, None, None, layer, batch, save_kv_cache=False)

    position, key_position = torch.arange(num - extend, num)[:, None], torch.arange(num)
    seen = (key_position <= position) & (key_position >= position - (num if window is None else window))
    expected = scaled_dot_product_attention(
        query.unflatten(1, (NUM_HEADS, HEAD_DIM)).transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1),
        attn_mask=seen, scale=0.25, enable_gqa=True,
    )  # fmt: skip
    torch.testing.assert_close(found.view(extend, NUM_HEADS, HEAD_DIM), expected.transpose(0, 1))


def test_the_pool_of_mla_takes_what_sglang_gives_it() -> None:
    """SGLang gives it the head size of sparse attention, which it has none of."""
    from sglang_blend.srt.platform import BlendCpuPlatform

    pool = BlendCpuPlatform().get_mla_kv_pool_cls()(
        10, page_size=1, dtype=torch.float32, kv_lora_rank=32, qk_rope_head_dim=16, index_head_dim=None,
        layer_num=2, device="cpu", enable_memory_saver=False, start_layer=0, end_layer=1,
    )  # fmt: skip
    assert pool.get_key_buffer(0).shape[-1] == 48


@pytest.mark.parametrize("sizes", [(600, 400), 1000])
def test_what_attention_read_is_told_of_keys_and_values_in_one_and_in_two(sizes: Any) -> None:
    """An MLA pool has one number where others have two; an exception here would end the scheduler."""
    from sglang_blend.attention.read_counts import CountsReads, ReadCounts
    from sglang_blend.srt.attention_backend import read_summary

    backend = CountsReads()
    backend.read_counts = ReadCounts()
    pool = SimpleNamespace(get_kv_size_bytes=lambda: sizes, size=9, page_size=1)
    runner = SimpleNamespace(attn_backend=backend, token_to_kv_pool=pool)
    scheduler: Any = SimpleNamespace(tp_worker=SimpleNamespace(model_runner=runner))
    assert read_summary(scheduler) == backend.read_counts.summary(100.0)


def make_context(**flags: bool) -> Any:
    args = ("enable_lmcache", "enable_flexkv", "enable_session_radix_cache", "enable_streaming_session")
    context = ("disable_radix_cache", "is_hybrid_swa", "is_hybrid_ssm", "enable_hierarchical_cache")
    server_args = SimpleNamespace(**{name: flags.get(name, False) for name in args})
    return SimpleNamespace(server_args=server_args, **{name: flags.get(name, False) for name in context})


@pytest.mark.parametrize(
    ("flag", "noun"),
    [
        ("is_hybrid_swa", "sliding-window"),
        ("is_hybrid_ssm", "state-space"),
        ("enable_streaming_session", "--enable-streaming-session"),
        ("enable_session_radix_cache", "--enable-session-radix-cache"),
    ],
)
def test_what_needs_another_cache_keeps_it(flag: str, noun: str) -> None:
    """Sessions live in a wrapper, or in a kind of cache, that ours would take the place of."""
    from sglang_blend.srt.plugin import _needs_another_cache

    assert noun in _needs_another_cache(make_context(**{flag: True}))
    assert not _needs_another_cache(make_context())


@pytest.mark.parametrize("name", ["SGLANG_ENABLE_UNIFIED_RADIX_TREE", "SGLANG_EXPERIMENTAL_CPP_RADIX_TREE"])
def test_a_cache_that_the_environment_asks_for_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang_blend.srt.plugin import _needs_another_cache

    monkeypatch.setenv(name, "1")
    assert _needs_another_cache(make_context()) == name


def test_pictures_are_prepared_on_the_cpu() -> None:
    """SGLang hands them to a GPU, and every line with a picture ends as an error."""
    from sglang_blend.demo_model import demo_model_path
    from sglang_blend.srt.flags import server_args

    assert server_args(["--model-path", str(demo_model_path())]).disable_fast_image_processor


def test_a_model_with_windows_runs_in_a_pool_that_is_too_small() -> None:
    """Two pools and SGLang's cache for them: admission, eviction and retraction, and every answer whole."""
    import sglang_blend
    from sglang_blend.random_model import random_model_path

    rng = random.Random(0)
    heads = [[rng.randrange(100, 40_000) for _ in range(200)] for _ in range(3)]
    prompts = [heads[i % 3] + [rng.randrange(100, 40_000) for _ in range(60)] for i in range(30)]
    lengths = [rng.randrange(40, 150) for _ in prompts]
    with sglang_blend.Engine(
        model_path=random_model_path("tiny-windows"),
        load_format="dummy",
        dtype="float32",
        max_total_tokens=1200,
        swa_full_tokens_ratio=0.5,
        chunked_prefill_size=128,
    ) as engine:

        def answer(i: int) -> dict[str, Any]:
            params: dict[str, Any] = {"max_new_tokens": lengths[i], "ignore_eos": True, "temperature": 0}
            params["custom_params"] = {"blend": {"rank": i, "est_output_len": 20, "num_observed": 9}}
            return engine.generate(input_ids=prompts[i], sampling_params=params)

        with ThreadPoolExecutor(len(prompts)) as pool:
            answers = list(pool.map(answer, range(len(prompts))))
        (state,) = engine.get_server_info()["internal_states"]
        assert [answer["meta_info"]["completion_tokens"] for answer in answers] == lengths
        assert state["blend"]["policy"]["name"] == "dual-scan"
        assert state["blend"]["totals"]["cached_tokens"] > 0
