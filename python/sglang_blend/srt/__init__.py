"""The only folder that imports sglang.

platform  the CPU as a hardware platform (`cpu/` holds its parts)
flags     command line -> ServerArgs
bodies    request bodies -> SGLang's OpenAI request classes, errors in OpenAI's words
engine    the real engine behind `job.engine.Engine`
"""
