"""One offline job: a batch file in, an output and an error file out.

    source       the input's bytes: local, packed or remote
    tables       rows of prompts as batch lines
    input        the batch file, line by line; body_check, fields: what a line may hold
    line_index   every line in 42 bytes: where it is, whose it is, whether it is done
    records      output and error lines in OpenAI's batch schema
    journal      whole lines appended, found again; parts: the same where nothing can be appended
    result_file  a journal and the file it becomes: merged, sorted, Parquet
    output       the two result files, synced by time
    identity     which job results belong to; engine_flags: which flags count
    earlier      what earlier runs left; checkpoint: begin, go on, or be done
    spool        the accepted requests as columns, for the planner
    stop         what SIGINT and SIGTERM mean
    runner       the steps: prepare, plan, feed in that order with a bounded window
    results      each line ends as one record, counted once
    offline      the whole job, input to summary
    progress     what is on screen meanwhile
    summary      what the job did, in numbers

The engine is a Protocol (`engine.protocol`): nothing in this folder imports sglang, so it runs without a GPU.
"""
