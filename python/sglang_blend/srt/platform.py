"""The CPU as an SGLang hardware platform: the whole runtime on plain PyTorch, no `sgl_kernel`.

SGLang finds `activate` through the entry point group `sglang.srt.platforms`, in the parent and in every
process it spawns. It speaks up only where no accelerator is present, so a GPU machine never sees it.

Why not SGLang's own CPU engine (`SGLANG_USE_CPU_ENGINE=1`): it needs `sgl_kernel` built for CPU and
assumes AMX. An out-of-tree platform gets the native (pure PyTorch) forward of every layer instead.

Source: `sglang.srt.platforms` (0.5.17): `SRTPlatform`, `CpuDeviceMixin`, `_resolve_platform`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

if TYPE_CHECKING:
    from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
    from sglang.srt.model_executor.model_runner import ModelRunner
    from sglang.srt.server_args import ServerArgs

_QUALNAME = "sglang_blend.srt.platform.BlendCpuPlatform"


def activate() -> str | None:
    """Entry point: the platform's qualified name, or None where an accelerator (or SGLang's CPU engine) serves."""
    if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1" or torch.accelerator.is_available():
        return None
    return _QUALNAME


class BlendCpuPlatform(CpuDeviceMixin, SRTPlatform):
    """Pure PyTorch on the host's cores.

    Methods the host really calls (0.5.17): `apply_server_args_defaults` (ServerArgs.__post_init__),
    `get_default_attention_backend` (ServerArgs), `get_device_total_memory` and
    `get_current_memory_usage` (memory pool sizing), `get_mha_kv_pool_cls`, `get_mla_kv_pool_cls`,
    `get_paged_allocator_cls` (KVCacheConfigurator), `init_backend` (model_runner, at import),
    `get_dispatch_key_name` (MultiPlatformOp), `get_device`, `synchronize`, `empty_cache`.
    """

    _enum = PlatformEnum.OOT

    def apply_server_args_defaults(self, server_args: ServerArgs) -> None:
        """Fill in what the user left open; mutates `server_args`, as the host expects."""
        server_args.sampling_backend = server_args.sampling_backend or "pytorch"
        # On the device "cpu" SGLang has already filled in intel_amx, which needs the kernels we do without.
        if server_args.attention_backend in (None, "intel_amx"):
            server_args.attention_backend = self.get_default_attention_backend()

    def get_device(self, device_id: int | None = None) -> str:
        """SGLang splits this at ":" (`ServerArgs._handle_missing_default_values`), so a string it is."""
        return "cpu"

    def init_backend(self) -> None:
        """Serve `torch_native` by the subclass that batches it; called once in each scheduler process."""
        from sglang.srt.layers.attention.attention_registry import register_attention_backend

        @register_attention_backend("torch_native")
        def create_torch_native_backend(runner: ModelRunner) -> AttentionBackend:
            from sglang_blend.srt.cpu.attention import BlendTorchNativeAttnBackend

            return BlendTorchNativeAttnBackend(runner)

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_mha_kv_pool_cls(self) -> type:
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        return MHATokenToKVPool

    def get_mla_kv_pool_cls(self) -> type:
        from sglang.srt.mem_cache.memory_pool import MLATokenToKVPool

        return MLATokenToKVPool

    def get_paged_allocator_cls(self) -> type:
        from sglang_blend.srt.cpu.allocator import CpuTokenToKVPoolAllocator

        return CpuTokenToKVPoolAllocator

    def get_dispatch_key_name(self) -> str:
        return "native"
