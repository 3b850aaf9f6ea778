"""The CPU platform: subclasses of the host, imported lazily by `sglang_blend.srt.platform`, and a hook.

attention, shared_attention         a step's attention; the second reads shared prefixes once
kv_pools, window_pool, allocator    KV memory that SGLang leaves to a platform
dtype, threads                      what this processor is good at
"""
