"""Parts for NVIDIA GPUs that subclass the host: imported lazily, and only where there is one.

shared_attention    FlashInfer's kernels over shared prefixes; merge: their results put together
"""
