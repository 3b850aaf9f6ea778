"""What planning needs to know of a running engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglang_blend.request import EngineFacts
from sglang_blend.srt.attention_backend import shares_reads
from sglang_blend.srt.engine_cost import device_name, run_config

if TYPE_CHECKING:
    from sglang.srt.entrypoints.engine import Engine


async def engine_facts(engine: Engine) -> EngineFacts:
    """Asked of the scheduler, in the event loop of the engine.

    SGLang 0.5.17: the parts of `Engine.get_server_info` that are needed here.
    """
    manager, args = engine.tokenizer_manager, engine.server_args
    states = await manager.get_internal_state()
    # PD-multiplexing computes a whole pass at once.
    pass_tokens = args.max_prefill_tokens if args.enable_pdmux else None
    return EngineFacts(
        model_config=run_config(manager.model_config),
        device_name=device_name(),
        tp_size=args.tp_size,
        kv_pool_tokens=engine._scheduler_init_result.scheduler_infos[0]["max_total_num_tokens"],
        page_size=args.page_size,
        max_running_requests=states[0]["effective_max_running_requests_per_dp"],
        policy=args.schedule_policy,
        shares_reads=shares_reads(args),
        mode="pdmux" if args.enable_pdmux else "mixed" if args.enable_mixed_chunk else "default",
        chunk_tokens=args.chunked_prefill_size if (args.chunked_prefill_size or -1) > 0 else pass_tokens,
        kv_cache_dtype=args.kv_cache_dtype,
    )
