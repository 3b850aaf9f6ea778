"""Reports: what a job did, what a plan would do, two runs side by side. Reads records, never a live engine.

    records.read_job(output)            the files beside an output
    records.simulated_job(...)          the same of a simulation, labelled so
    metrics                             every figure's definition, unit and value
    pages.job_page(job)                 what is shown, as data (page); compare: of two; plan_page: of a plan
    html.write(page, path)              one self-contained file

Parts of a page: over_time (from timeline), workload, requests, replicas, settings. Figures: charts, scales,
units; bundle: the JavaScript that draws them.

`python -m sglang_blend.report OUTPUT SUMMARY HTML` is how a job makes its own (`at_end`), in a process
beside it.
"""
