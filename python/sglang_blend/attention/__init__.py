"""Which requests of a batch read the same KV, so that attention can read it once: plain numpy, no sglang.

In data-flow order: `decode_groups` (who joined and who left the running batch), `prefix_forest` (what the
batch shares, kept up to date), `shared_runs` (the result), `level_arrays` (the same as arrays for a kernel),
`read_counts` (what was read and what sharing saved). When reading together pays says
`cost.break_even`; `tests/oracles/naive_groups.py` finds the same runs the obvious way. `srt.cpu` and
`srt.cuda` turn the result into kernels.
"""
