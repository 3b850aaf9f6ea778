"""Which requests of a batch read the same KV, so that attention can read it once: plain numpy, no sglang.

In data-flow order: `decode_groups` (who joined and who left the running batch), `prefix_forest` (what the
batch shares, kept up to date), `break_even` (when reading together pays), `shared_runs` (the result).
`naive_groups` says the same the obvious way. `sglang_blend.srt.cpu` and `.cuda` turn the result into kernels.
"""
