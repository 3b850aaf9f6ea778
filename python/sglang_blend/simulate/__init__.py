"""A modelled engine, to see what a schedule would take without running it. Everything it says is simulated.

    trace = synthesise(cost, paper_trace(1), seed=0)                                     # synthesis.py
    job = SimulatedJob.from_table(trace.table, trace.output_len)                         # simulated_job.py
    result = simulate_schedule(job, schedule, cost, EngineConfig(mode="overlap"))        # simulator.py

Only numpy and the standard library.
"""
