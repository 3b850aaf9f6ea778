#!/usr/bin/env bash
# Makes .venv with everything in it: pinned dependencies, this project, the forked SGLang.
# Both README commands call it; when nothing changed since the last time it does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.sglang-blend-setup
wanted=$(cat requirements.lock pyproject.toml patches/*/* \
    scripts/setup.sh scripts/install_fork.sh scripts/missing_requirements.py | sha256sum)
if [ -x .venv/bin/sglang-blend ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

# SGLang 0.5.17 has wheels for these.
python=${PYTHON:-}
for candidate in python3 python3.12 python3.11; do
    [ -n "$python" ] && break
    "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && python=$candidate
done
if [ -z "$python" ]; then
    echo "setup: Python 3.11 or 3.12 is needed and none was found; set PYTHON=/path/to/python3.11" >&2
    exit 2
fi

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "setup: creating .venv with $("$python" --version)" >&2
    if ! "$python" -m venv --clear .venv >/dev/null; then
        echo "setup: $python cannot create a virtual environment; on Debian: apt-get install python3-venv" >&2
        exit 2
    fi
fi

echo "setup: installing the pinned packages (about 9 GB on the first run)" >&2
uv=$(sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.lock)
.venv/bin/python -m pip install --quiet --disable-pip-version-check "$uv"
# In the lock stands the stock wheel of SGLang; the fork is built from it and replaces it.
.venv/bin/uv pip sync --quiet --python .venv/bin/python requirements.lock
# The demo model is converted while the fork is built and SGLang's bytecode written: each takes one core for half a minute.
PYTHONPATH=python .venv/bin/python -m sglang_blend.demo_model >/dev/null &
PYTHON=.venv/bin/python scripts/install_fork.sh --editable
wait $! || echo "setup: no demo model yet (see above); the first job without --model-path tries again" >&2
echo "$wanted" >"$stamp"
