#!/usr/bin/env bash
# Puts this package and its fork of SGLang into a Python that has SGLang's dependencies, and moves none of them:
#   PYTHON=python3 scripts/install_fork.sh [--editable] [EXTRAS]
# EXTRAS as in pip's brackets (default: engine,report); the tools that build the fork come with them. scripts/setup.sh
# calls it for .venv, docker/Dockerfile for the Python of SGLang's image. Whatever SGLang is installed there, a checkout too, is replaced: the fork is made from the stock wheel.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
form=()
if [ "${1:-}" = --editable ]; then
    form=(--editable)
    shift
fi
extras=fork,${1:-engine,report}

pip() { "$python" -m pip --quiet --disable-pip-version-check "$@"; }

lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT
"$python" scripts/missing_requirements.py "$extras" "$lists"
if [ -s "$lists/missing.txt" ]; then
    echo "install_fork: installing $(paste -sd ' ' "$lists/missing.txt")" >&2
    # What is installed may be older than the lock; a package that must go with it (s3fs with fsspec) then has
    # another version than the locked one.
    if ! pip install --constraint "$lists/held.txt" --constraint "$lists/locked.txt" -r "$lists/missing.txt"; then
        echo "install_fork: the locked versions do not go with what is installed; taking those that do" >&2
        if ! pip install --constraint "$lists/held.txt" -r "$lists/missing.txt"; then
            echo "install_fork: no versions go with it (pip's words are above); leave the extra out that wants them: $extras" >&2
            exit 2
        fi
    fi
fi
pip install --no-deps "${form[@]}" .
"$python" -c 'import sys; from sglang_blend.cli import main; sys.exit(main(["fork", "install"]))' >&2

# SGLang imports thousands of modules in each of its processes. Containers often forbid bytecode at run time
# (PYTHONDONTWRITEBYTECODE) and would then compile them at every start.
if ! words=$(env -u PYTHONDONTWRITEBYTECODE "$python" -W ignore -c \
    'import sglang_blend.srt.host, sglang.srt.managers.scheduler, sglang.srt.models.registry' 2>&1); then
    printf 'install_fork: the installed packages do not work together:\n%s\n' "$words" >&2
    exit 2
fi
