#!/usr/bin/env bash
# From a fresh clone to answers: sets up .venv, fetches the demo model, runs the main job on the example.
# Further arguments go to the job: scripts/quickstart.sh --order fcfs
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
.venv/bin/python -m sglang_blend.launch_offline --file examples/batch.jsonl --overwrite "$@"
.venv/bin/python scripts/show_answers.py examples/batch.output.jsonl
