"""A job's plan and its feeding.

    job_plan   which requests run first to learn output lengths, in which order the rest runs, with what hints
    feed       hands them to an engine in that order

`core` makes the order, `simulate` predicts its time; here both meet a job that learns while it runs.
"""
