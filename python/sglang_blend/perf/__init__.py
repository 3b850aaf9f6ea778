"""What a job costs and how long it would take: hardware, model shapes, roofline, and a simulated engine.

    cost = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("H200"))      # roofline.py
    trace = synthesise(cost, paper_trace(1), seed=0)                                     # synthesis.py
    job = SimulatedJob.from_table(trace.table, trace.output_len)                         # simulated_job.py
    result = simulate_schedule(job, schedule, cost, EngineConfig(mode="overlap"))        # simulator.py

Only numpy and the standard library; nothing here is measured unless `measured.py` read it from a profile.
"""
