"""The processes of a job, seen from the job: nothing in this folder imports sglang.

    job -> nursery (imports SGLang once, forks the others)
             |-> prepare workers   validate and tokenize, one for each core
             `-> engine host       owns SGLang's engine: scheduler, detokenizer

    messages      frames over a socket pair
    nursery       starts processes, tells how they ended
    prepare_pool  lines in, prepared requests out, in the same order
    engine_run    one run of the engine host, from its start to its death
    engine        all of them together: the engine of a job

Their other ends are in `srt`. The job's death is the end of a socket to each of them, so none outlives it.
"""
