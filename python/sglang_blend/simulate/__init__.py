"""A modelled engine, to see what a schedule would take without running it. Everything it says is simulated.

    trace = synthesise(cost, paper_trace(1), seed=0)                                     # synthesis.py
    job = SimulatedJob.from_table(trace.table, trace.output_len)                         # simulated_job.py
    result = simulate_schedule(job, schedule, cost, EngineConfig(mode="overlap"))        # simulator.py

    simulated_job.py, simulator.py   what goes in and comes out, and the calls above
    engine_config.py                 what the engine can be told, with the constants of the model
    simulated_engine.py              its loop: passes, decode steps, retraction
    rules.py                         who is admitted next, whoever decides
    host.py                          our scheduler decides: the code of `scheduling` that runs inside SGLang
    stock.py                         SGLang's own queues and admission
    kv_pool.py, running_batch.py     its memory and its decode batch
    step_time.py, shared_readers.py  what a step takes, and what shared reads save
    timeline.py                      its steps as columns
    predict.py                       makespans of large jobs, from samples
    overlap.py                       which mode pays on a calibrated machine
    synthesis.py, sources.py, trace_file.py   jobs made or read

Only numpy and the standard library.
"""
