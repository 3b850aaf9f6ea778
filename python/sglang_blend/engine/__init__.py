"""The parent's side of an engine: processes that prepare and answer requests. Nothing here imports sglang.

    job -> nursery (imports SGLang once, forks the others)
             |-> prepare workers   validate and tokenize, one for each core
             `-> engine host       owns SGLang's engine: scheduler, detokenizer

    protocol      what a job needs of an engine
    local         the one on this machine: all of these together
    supervisor    an engine that is started again when it dies or hangs
    suspects      which request kills it
    restarts      how often, and how soon, it is started again
    host_run      one run of the engine host, from its start to its death
    prepare_pool  lines in, prepared requests out, in the same order
    nursery       starts processes, tells how they ended and what their last words were
    messages      all that is said over the sockets

Their other ends are in `srt`. The job's death is the end of a socket to each of them, so none outlives it.
"""
