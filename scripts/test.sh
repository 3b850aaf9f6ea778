#!/usr/bin/env bash
# What CI runs: format, lint, types and all tests, the engine's included.
# With arguments, only pytest runs and gets them: scripts/test.sh tests/fork. scripts/check is the fast part.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
scripts/install_browser.sh || true # the tests that need it then fail, and say the same
if [ $# -gt 0 ]; then
    exec .venv/bin/python -m pytest "$@"
fi
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy
# Two at a time; those that measure, or kill at a moment, run by themselves, also after a failure.
failed=0
.venv/bin/python -m pytest --durations=15 -n 2 --dist loadgroup --no-loadscope-reorder -m "not alone" || failed=1
.venv/bin/python -m pytest --durations=5 -m alone || failed=1
exit "$failed"
