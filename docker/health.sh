#!/usr/bin/env bash
# Is the job of this container getting on? Exit code 0: a file that one of its processes holds open was written in the
# last HEALTH_MAX_SILENCE_S seconds; 1: none was. An answer, a step, a line of the engine's log, a token id on its way to
# disk: all of them count.
#
# A silent engine is the job's own business: it starts another one after --hang-timeout, three times that before the first
# answer. The limit here is longer, so that it is only ever reached when the job itself hangs. Process ids as arguments look at
# those instead: docker/health.sh PID
set -euo pipefail

max_silence_s=${HEALTH_MAX_SILENCE_S:-2700}
processes=("${@/#//proc/}")
if [ $# -eq 0 ]; then
    # The job and its engines (sglang::scheduler ...), by what they are called; not Ray, whose logs grow by themselves.
    mapfile -t processes < <(grep -lsz sglang /proc/[0-9]*/cmdline | xargs -r dirname)
fi
# Processes end while they are looked at; that is no failure.
written=
if [ "${#processes[@]}" -gt 0 ]; then
    written=$(find -L "${processes[@]/%//fd}" -maxdepth 1 -type f -newermt "-$max_silence_s seconds" -print -quit \
        2>/dev/null || true)
fi
if [ -z "$written" ]; then
    echo "no open file was written for $max_silence_s s: the job hangs"
    exit 1
fi
