#!/usr/bin/env bash
# One offline job on several nodes of a Slurm cluster: sbatch slurm_ray.sh batch.jsonl MODEL
# Started again with the same files it goes on where it stopped; it queues itself again when its time is up.
#SBATCH --job-name=offline-batch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail

batch=$1
model=$2
tp_size=${TP_SIZE:-1}
port=${RAY_PORT:-6379}
export RAY_worker_niceness=0 # engines at normal priority

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}'):$port"

# One `ray start` a node. They stay in the foreground, so Slurm ends them with the job.
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
    ray start --head --port="$port" --block &
sleep 15
if [ "${#nodes[@]}" -gt 1 ]; then
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --exclude="$head" --overlap \
        ray start --address="$address" --block &
fi

replicas=$((${#nodes[@]} * SLURM_GPUS_ON_NODE / tp_size))
# In the background, because the shell can hear Slurm's signal only while it waits.
python -m sglang_blend.launch_offline --file "$batch" --model-path "$model" --tp-size "$tp_size" \
    --replicas "$replicas" --ray-address "$address" &
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
