#!/usr/bin/env bash
# A Chromium for the tests of the report: does nothing where there is one. `playwright` drives it.
set -euo pipefail

for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "install_browser: installing chromium with apt-get" >&2
    if apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >&2; then
        exit 0
    fi
fi
echo "install_browser: no Chromium here and none could be installed; the tests of the report's page need one." >&2
echo "install_browser: install chromium (Debian, Ubuntu as root: apt-get install chromium) or put one on PATH." >&2
exit 2
