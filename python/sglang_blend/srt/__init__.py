"""The only folder that imports sglang.

platform  the CPU as a hardware platform (`cpu/` holds its parts)
flags     command line -> ServerArgs
bodies    request bodies -> SGLang's OpenAI request classes, errors in OpenAI's words
serving   SGLang's OpenAI serving classes, called in process: prepare and answer
nursery   the process that imports SGLang once and forks the others (`processes` is the job's side)
child     what every forked process does first
host      the process that owns the engine
prepare_worker  a process that validates and tokenizes
"""
