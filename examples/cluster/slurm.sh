#!/usr/bin/env bash
# One offline job on one node of a Slurm cluster, without Ray: sbatch slurm.sh batch.jsonl --model-path MODEL
# Everything after the batch file goes to the job. Started again with the same files it goes on where it stopped.
#SBATCH --job-name=offline-batch
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail

batch=$1
shift

# In the background, because the shell can hear Slurm's signals only while it waits.
python -m sglang_blend.launch_offline --file "$batch" "$@" &
job=$!

# TERM: pre-empted or cancelled; where it is pre-empted, Slurm itself queues it again (--requeue).
# USR1: the time limit is two minutes away (--signal). Both let the job finish and write what is in flight.
time_is_up=
trap 'kill -TERM "$job"' TERM
trap 'time_is_up=yes; kill -TERM "$job"' USR1
# A signal ends a wait, the job may take a while longer.
while kill -0 "$job" 2>/dev/null; do
    wait "$job" || true
done
code=0
wait "$job" || code=$?

# Not done when the time was up, or it could not go on here and now (75; a few times, then somebody has to look): back
# into the queue.
if { [ -n "$time_is_up" ] && [ "$code" -eq 143 ]; } || { [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
