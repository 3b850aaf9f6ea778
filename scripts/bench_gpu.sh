#!/usr/bin/env bash
# The benchmark of docs/performance.md on a GPU: scripts/bench_gpu.py in the environment of scripts/setup.sh,
# after the machine has been calibrated once. A few calls of ten minutes do it all.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
out=bench-gpu
mkdir -p "$out"
if [ ! -e "$out/hardware.json" ]; then
    .venv/bin/sglang-blend calibrate --model-path "$(.venv/bin/python -m sglang_blend.random_model llama-3-8b)" --out "$out/hardware.json"
fi
export SGLANG_BLEND_HARDWARE="$PWD/$out/hardware.json"
exec .venv/bin/python scripts/bench_gpu.py --out "$out" "$@"
