#!/usr/bin/env bash
# All tests, the engine's included. Arguments go to pytest: scripts/test.sh -m "not engine" takes seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
exec .venv/bin/python -m pytest "$@"
