#!/usr/bin/env bash
# Is the job of this container getting on? Exit code 0: a file that one of its processes holds open was written in the
# last HEALTH_MAX_SILENCE_S seconds; 1: none was. An answer, a step, a line of the engine's log, a token id on its way to
# disk: all of them count.
#
# A silent engine is the job's own business: it starts another one after --hang-timeout, three times that before the first
# answer. The limit here is longer, so that it is only ever reached when the job itself hangs. Process ids as arguments look at
# those instead of all: docker/health.sh PID
set -euo pipefail

max_silence_s=${HEALTH_MAX_SILENCE_S:-2700}
folders=()
for pid in "${@:-[0-9]*}"; do
    # shellcheck disable=SC2206 # a pattern
    folders+=(/proc/$pid/fd)
done
# Processes end while find looks at them; that is no failure. /proc and /dev are files that nobody writes to a disk.
written=$(find -L "${folders[@]}" -maxdepth 1 -type f -newermt "-$max_silence_s seconds" -print -quit 2>/dev/null || true)
if [ -z "$written" ]; then
    echo "no open file was written for $max_silence_s s: the job hangs"
    exit 1
fi
