"""Measures the present machine with the kernels that the engine runs: `measure(config)` gives a hardware
record.

One file a quantity: `timing` (how long a call takes), `copies`, `layer` (GEMM rates), `cpu_attention` and
`cuda_attention`, `sm_shares` (decode attention on a part of the multiprocessors). `machine` joins them;
`engine_dtype` says in which dtype.
"""
