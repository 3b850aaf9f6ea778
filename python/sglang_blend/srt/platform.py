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

from sglang_blend.errors import ConfigError
from sglang_blend.srt.attention_backend import ATTENTION_BACKEND
from sglang_blend.srt.cpu.dtype import has_fast_bfloat16
from sglang_blend.srt.cpu.threads import set_thread_defaults

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

# Share of the host's free memory for weights and KV pool, where --mem-fraction-static does not say.
DEFAULT_MEM_FRACTION = 0.3
# Flags whose other values end SGLang 0.5.17 here, minutes later and in words of CUDA.
_SERVED: dict[str, tuple[object, ...]] = {
    "page_size": (1, None),
    "tp_size": (1,),
    "pp_size": (1,),
    "speculative_algorithm": (None,),
    "enable_hierarchical_cache": (False,),
    "enable_torch_compile": (False,),
}
_QUALNAME = "sglang_blend.srt.platform.BlendCpuPlatform"


def activate() -> str | None:
    """Entry point: the platform's qualified name, or None where an accelerator serves.

    Also None with `SGLANG_USE_CPU_ENGINE=1`, the wish for SGLang's own CPU engine.
    """
    if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1" or torch.accelerator.is_available():
        return None
    return _QUALNAME


class BlendCpuPlatform(CpuDeviceMixin, SRTPlatform):
    """Pure PyTorch on the host's cores.

    Methods the host really calls (0.5.17): `apply_server_args_defaults` (ServerArgs.__post_init__),
    `get_default_attention_backend` (ServerArgs), `get_device_total_memory` and
    `get_current_memory_usage` (memory pool sizing), `get_mha_kv_pool_cls`, `get_mla_kv_pool_cls`,
    `get_paged_allocator_cls` (KVCacheConfigurator), `get_dispatch_key_name` (MultiPlatformOp),
    `get_device`, `synchronize`, `empty_cache`, `get_torch_profiler_activity` and `_str` (the profiler of the
    scheduler).
    """

    _enum = PlatformEnum.OOT

    def apply_server_args_defaults(self, server_args: ServerArgs) -> None:
        """Fill in what the user left open; mutates `server_args`, as the host expects.

        Runs in the parent before the processes are spawned, so the thread settings reach them.

        Raises:
            ConfigError: a flag asks for what needs an accelerator.
        """
        set_thread_defaults()
        # The rest of the machine's memory is somebody else's.
        if server_args.mem_fraction_static is None:
            server_args.mem_fraction_static = DEFAULT_MEM_FRACTION
        # An idle scheduler would otherwise poll on one of the cores that the others need.
        server_args.sleep_on_idle = True
        for name, allowed in _SERVED.items():
            if (value := getattr(server_args, name)) not in allowed:
                given = name.replace("_", "-") + ("" if value is True else f" {value}")
                served = f"only {allowed[0]} is" if allowed[0] else "it is not"
                raise ConfigError(f"--{given}: without an accelerator {served} served.")
        if server_args.dtype == "auto" and not has_fast_bfloat16():
            server_args.dtype = "float32"
        server_args.sampling_backend = server_args.sampling_backend or "pytorch"
        # The fast one is told to work on a GPU, unless SGLang's own CPU engine runs.
        server_args.disable_fast_image_processor = True
        # On the device "cpu" SGLang has already filled in intel_amx, which needs the kernels we do without.
        if server_args.attention_backend in (None, "intel_amx"):
            server_args.attention_backend = self.get_default_attention_backend()

    def get_device(self, device_id: int | None = None) -> str:
        """SGLang splits this at ":" (`ServerArgs._handle_missing_default_values`), so a string it is."""
        return "cpu"

    def get_torch_profiler_activity_str(self) -> str:
        """Asked when a profile is started; SGLang's default raises, which ends the scheduler."""
        return "CPU"

    def get_torch_profiler_activity(self) -> torch.profiler.ProfilerActivity:
        """The same for PyTorch."""
        return torch.profiler.ProfilerActivity.CPU

    def get_default_attention_backend(self) -> str:
        return ATTENTION_BACKEND

    def get_mha_kv_pool_cls(self) -> type:
        from sglang_blend.srt.cpu.kv_pools import CpuMHATokenToKVPool

        return CpuMHATokenToKVPool

    def get_mla_kv_pool_cls(self) -> type:
        from sglang_blend.srt.cpu.kv_pools import CpuMLATokenToKVPool

        return CpuMLATokenToKVPool

    def get_paged_allocator_cls(self) -> type:
        from sglang_blend.srt.cpu.allocator import CpuTokenToKVPoolAllocator

        return CpuTokenToKVPoolAllocator

    def get_dispatch_key_name(self) -> str:
        return "native"
