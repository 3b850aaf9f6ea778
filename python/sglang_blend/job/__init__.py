"""One offline job: a batch file in, an output and an error file out.

    input    the batch file, line by line: envelope checked, body left to the engine
    records  output and error lines in OpenAI's batch schema
    output   whole lines appended, flushed by time
    plan     token ids of all accepted lines -> an order
    runner   feeds the engine in that order with a bounded window
    progress what is on screen meanwhile
    summary  what the job did, in numbers

The engine is a Protocol (`runner.Engine`): nothing in this folder imports sglang, so it runs without a GPU.
"""
