"""One offline job: a batch file in, an output and an error file out.

    input    the batch file, line by line: envelope checked, body left to the engine
    records  output and error lines in OpenAI's batch schema
    output   whole lines appended, flushed by time
    spool    the accepted requests as columns, for the planner
    runner   the steps: prepare, plan, feed in that order with a bounded window
    results  each line ends as one record, counted once
    offline  the whole job, file to summary
    progress what is on screen meanwhile
    summary  what the job did, in numbers

The engine is a Protocol (`runner.Engine`): nothing in this folder imports sglang, so it runs without a GPU.
"""
