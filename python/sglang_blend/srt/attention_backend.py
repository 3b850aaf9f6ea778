"""`--attention-backend blend`: which class serves it here, and what it refuses.

SGLang 0.5.17: `add_attention_backend_choices` (the flag), `register_attention_backend` (the class, built by
`_build_full_attention_backend_from_str` with the model runner), `support_triton` (which backends may write
their index tables by Triton kernels; the name of a backend decides).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sglang_blend.attention.read_counts import CountsReads
from sglang_blend.errors import ConfigError
from sglang_blend.srt.options import BlendOptions

if TYPE_CHECKING:
    from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.model_executor.model_runner import ModelRunner
    from sglang.srt.server_args import ServerArgs

ATTENTION_BACKEND = "blend"


def register() -> None:
    """Make the flag and the class known; once in each process, before flags are parsed."""
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.server_args import add_attention_backend_choices

    add_attention_backend_choices([ATTENTION_BACKEND])
    register_attention_backend(ATTENTION_BACKEND)(_make_backend)


def support_triton(original: Callable[[str], bool], backend: str) -> bool:
    """Hook: on the CPU platform this backend is no Triton backend either."""
    from sglang.srt.platforms import current_platform

    on_cpu = current_platform.device_type == "cpu"
    return original("torch_native" if backend == ATTENTION_BACKEND and on_cpu else backend)


def shares_reads(args: ServerArgs) -> bool:
    """Whether the decode steps of this engine read KV that requests share once."""
    name = args.decode_attention_backend or args.attention_backend
    return name == ATTENTION_BACKEND and BlendOptions.from_env().shared_prefix_attention


def read_summary(scheduler: Scheduler) -> dict[str, float] | None:
    """What attention read; None where another backend runs."""
    runner = scheduler.tp_worker.model_runner
    if not isinstance(runner.attn_backend, CountsReads):
        return None
    pool = runner.token_to_kv_pool
    sizes = pool.get_kv_size_bytes()  # of keys and of values, or with MLA of both in one
    total = sum(sizes) if isinstance(sizes, tuple) else sizes
    return runner.attn_backend.read_counts.summary(float(total / (pool.size + pool.page_size)))


def _make_backend(runner: ModelRunner) -> AttentionBackend:
    """Build the backend for the runner's device.

    Raises:
        ConfigError: no class serves the device.
    """
    share = BlendOptions.from_env().shared_prefix_attention
    if runner.device == "cpu":
        from sglang_blend.srt.cpu.attention import BatchedAttnBackend
        from sglang_blend.srt.cpu.shared_attention import SharedPrefixAttnBackend

        return SharedPrefixAttnBackend(runner) if share else BatchedAttnBackend(runner)
    if runner.device == "cuda":
        from sglang.srt.layers.attention.flashinfer_backend import FlashInferAttnBackend

        from sglang_blend.srt.cuda.shared_attention import SharedPrefixFlashInferBackend

        if share:
            return SharedPrefixFlashInferBackend(runner)
        return FlashInferAttnBackend(runner, init_new_workspace=runner.init_new_workspace)
    raise ConfigError(
        f"--attention-backend {ATTENTION_BACKEND} does not serve the device {runner.device!r}; leave it out."
    )
