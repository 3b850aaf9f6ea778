"""The only folder that imports sglang.

What the scheduler process runs:
    plugin           what SGLang loads: registers the rest
    policy           our schedule policies; scheduling_host: what `scheduling` asks of SGLang
    prefill_adder    admission; queue_head: how SGLang's queue is put in order
    radix_cache      eviction by demand
    step_stats       what each step did; step_counter: that there are steps
    stop_regex       with a deadline
    options          what the job tells it by the environment
    overlap, sm_groups              how compute runs beside KV reads
    attention_backend, cpu, cuda    attention that reads shared KV once
    platform         the CPU as a hardware platform
    engine_cost      what the model costs on this machine

The other ends of the job's processes (`engine`):
    children         imports SGLang once and forks the others
    host             owns the engine; engine_facts: what planning needs to know of it
    engine_processes forks its scheduler and detokenizer
    prepare_worker   validates and tokenizes
    serving          SGLang's OpenAI serving classes, called in process; choices, media_ids: parts of it
    bodies           errors in OpenAI's words
    flags            command line -> ServerArgs

`sglang_blend.Engine` and `Runtime`, drop-ins for SGLang's:
    engine, runtime
    request_list     a list of prompts taken apart; list_answers: its answers in planned order
    loop_thread      an event loop for callers from anywhere
    own_processes    no signal for their processes but the last one

    calibration      measures this machine, for `sglang-blend calibrate`
"""
