"""One offline job: a batch file in, an output and an error file out.

    offline      the whole job, input to summary
    steps        prepare, plan, feed in that order with a bounded window

    source       the input's bytes: local, packed (packing) or remote; lines: in bounded memory
    tables       rows of prompts as batch lines
    batch_file   the input, line by line; body_check, fields: what a line may hold
    line_index   every line in 42 bytes: where it is, whose it is, whether it is done
    spool        the accepted requests as columns, for the planner

    records      output and error lines in OpenAI's batch schema; parquet_records: as a table
    results      each line ends as one record, counted once
    output       the two result files, synced by time
    result_file  a journal and the file it becomes: merged, sorted (sorting), Parquet
    journal      whole lines appended, found again; parts: the same where nothing can be appended
    lease        whose a place on a storage is

    checkpoint   begin, go on, or be done; earlier: what earlier runs left
    identity     which job results belong to; engine_flags: which flags count
    stop         what SIGINT and SIGTERM mean
    progress     what is on screen meanwhile
    summary      what the job did, in numbers
    run_record   what the report tells of a run; plan_facts: what it tells of the plan

The engine is a Protocol (`engine.protocol`): nothing in this folder imports sglang, so it runs without a GPU.
"""
