"""The plugin that SGLang loads in its parent and in every scheduler process.

It brings policies, a cache, an attention backend, and statistics.

SGLang finds `activate` through the entry point group `sglang.srt.plugins`. It logs a plugin that fails and
goes on, so what was installed is verified where it is used: a scheduler whose policy is not ours does not
start under our name, because stock `SchedulePolicy` refuses names it does not know.

Without our flags nothing of this decides anything: two hooks count steps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang.srt.environ import envs
from sglang.srt.mem_cache.registry import (
    TreeCacheBuildContext,
    register_radix_cache_backend,
)
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.server_args import add_schedule_policy_choices, get_global_server_args
from sglang.srt.utils.tensor_bridge import use_mlx

from sglang_blend import fork
from sglang_blend.errors import ConfigError
from sglang_blend.srt import attention_backend
from sglang_blend.srt.cpu import window_pool
from sglang_blend.srt.sm_groups import stream_group

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import ScheduleBatch
    from sglang.srt.managers.schedule_policy import SchedulePolicy
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache

logger = logging.getLogger(__name__)

CACHE_BACKEND = "blend"


def activate() -> None:
    """Entry point; runs in every process before SGLang parses flags or builds a scheduler.

    Raises:
        ForkError: the installed sglang is not the fork this package was made for.
    """
    fork.require()
    from sglang.srt.managers.schedule_policy import register_schedule_policy

    from sglang_blend.request import POLICIES

    add_schedule_policy_choices(list(POLICIES))
    for name in POLICIES:
        register_schedule_policy(name, _make_policy)
    register_radix_cache_backend(CACHE_BACKEND, _make_cache)
    attention_backend.register()
    for target, hook_type, hook in _HOOKS:
        HookRegistry.register(target, hook, hook_type)


def _make_policy(policy: str, tree_cache: BasePrefixCache, *args: Any) -> SchedulePolicy:
    from sglang_blend.srt.policy import BlendSchedulePolicy

    return BlendSchedulePolicy(policy, tree_cache, *args, server_args=get_global_server_args())


def _make_cache(ctx: TreeCacheBuildContext) -> BasePrefixCache:
    """`--radix-cache-backend blend`.

    Raises:
        ConfigError: the model or the flags need another kind of cache.
    """
    reason = _needs_another_cache(ctx)
    if reason:
        raise ConfigError(
            f"--radix-cache-backend {CACHE_BACKEND} does not serve {reason}; leave the flag out."
        )
    from sglang_blend.srt.options import BlendOptions
    from sglang_blend.srt.radix_cache import BlendRadixCache

    options = BlendOptions.from_env()
    return BlendRadixCache(ctx.params, demand_aware_eviction=options.demand_aware_eviction)


def _needs_another_cache(ctx: TreeCacheBuildContext) -> str:
    """Why SGLang has to choose the cache, as a noun; empty when ours will do."""
    args = ctx.server_args
    for needed, noun in (
        (ctx.disable_radix_cache, "--disable-radix-cache"),
        (ctx.is_hybrid_swa, "models with sliding-window layers"),
        (ctx.is_hybrid_ssm, "models with state-space layers"),
        (ctx.enable_hierarchical_cache, "--enable-hierarchical-cache"),
        (args.enable_lmcache, "--enable-lmcache"),
        (args.enable_flexkv, "--enable-flexkv"),
        (args.enable_session_radix_cache, "--enable-session-radix-cache"),
        (args.enable_streaming_session, "--enable-streaming-session"),
        (envs.SGLANG_EXPERIMENTAL_CPP_RADIX_TREE.get(), "SGLANG_EXPERIMENTAL_CPP_RADIX_TREE"),
        (envs.SGLANG_ENABLE_UNIFIED_RADIX_TREE.get(), "SGLANG_ENABLE_UNIFIED_RADIX_TREE"),
        (use_mlx(), "MLX"),
    ):
        if needed:
            return noun
    return ""


def _create_tree_cache(
    original: Callable[[TreeCacheBuildContext], BasePrefixCache], ctx: TreeCacheBuildContext
) -> BasePrefixCache:
    """Our policies imply our cache, where the user names none and the model allows it."""
    from sglang_blend.request import POLICIES

    if ctx.server_args.schedule_policy not in POLICIES or ctx.server_args.radix_cache_backend:
        return original(ctx)
    if reason := _needs_another_cache(ctx):
        logger.warning("Eviction does not know what the plan needs next: %s keep SGLang's cache.", reason)
        return original(ctx)
    return _make_cache(ctx)


def _watch(result: None, scheduler: Scheduler) -> None:
    """Attach the statistics, time the policy whichever it is, give searches of `stop_regex` a deadline."""
    from sglang_blend.srt import stop_regex
    from sglang_blend.srt.options import BlendOptions
    from sglang_blend.srt.step_counter import ticker
    from sglang_blend.srt.step_stats import StepStats

    stop_regex.bound()

    options = BlendOptions.from_env()
    path = options.stats_file
    ps = scheduler.ps
    if path is not None and ps.dp_rank:
        path = f"{path}.{ps.dp_rank}"
    stats = StepStats(scheduler, path if ps.tp_rank == 0 and ps.pp_rank == 0 else None)
    scheduler.blend_stats = stats
    scheduler.blend_tick = ticker(options.step_counter)
    calc_priority = scheduler.policy.calc_priority

    def timed(*args: Any, **kwargs: Any) -> None:
        start = time.thread_time()
        calc_priority(*args, **kwargs)
        stats.on_policy(time.thread_time() - start)

    scheduler.policy.calc_priority = timed


def _run_batch(
    original: Callable[..., Any], scheduler: Scheduler, batch: ScheduleBatch, *args: Any, **kwargs: Any
) -> Any:
    # PD-multiplexing runs a prefill batch some layers at a time: one step of several calls.
    if not (batch.forward_mode.is_split_prefill() and batch.split_index):
        scheduler.blend_stats.on_step(batch)
    scheduler.blend_tick()
    result = original(scheduler, batch, *args, **kwargs)
    scheduler.blend_stats.on_result()
    return result


def _queue_again(scheduler: Scheduler, req: Any, is_retracted: bool = False) -> None:
    if is_retracted:
        scheduler.blend_stats.on_retract(1)


def _get_internal_state(result: Any, scheduler: Scheduler, *args: Any) -> Any:
    scheduler.blend_stats.flush()
    result.internal_state["blend"] = scheduler.blend_stats.state()
    return result


def _choose_stream_group(
    original: Callable[..., int], scheduler: Scheduler, running_batch: ScheduleBatch
) -> int:
    """Under PD-multiplexing our policies divide the GPU by the work that is left, where it is calibrated."""
    from sglang_blend.srt.policy import BlendSchedulePolicy

    policy = scheduler.policy
    if not isinstance(policy, BlendSchedulePolicy) or scheduler.pdmux_config.manual_divisions:
        return original(scheduler, running_batch)
    return stream_group(policy, scheduler.sm_counts) or original(scheduler, running_batch)


# Every function of SGLang 0.5.17 that is hooked.
_HOOKS: tuple[tuple[str, HookType, Callable[..., Any]], ...] = (
    ("sglang.srt.mem_cache.registry.create_tree_cache", HookType.AROUND, _create_tree_cache),
    ("sglang.srt.managers.scheduler.Scheduler.init_schedule_policy", HookType.AFTER, _watch),
    ("sglang.srt.managers.scheduler.Scheduler.run_batch", HookType.AROUND, _run_batch),
    ("sglang.srt.managers.scheduler.Scheduler._add_request_to_queue", HookType.BEFORE, _queue_again),
    ("sglang.srt.managers.scheduler.Scheduler.get_internal_state", HookType.AFTER, _get_internal_state),
    (
        "sglang.srt.multiplex.multiplexing_mixin.SchedulerMultiplexMixin.choose_stream_group",
        HookType.AROUND,
        _choose_stream_group,
    ),
    ("sglang.srt.utils.common.support_triton", HookType.AROUND, attention_backend.support_triton),
    (
        "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator._build_token_to_kv_pool",
        HookType.AROUND,
        window_pool.build_pool,
    ),
)
