#!/usr/bin/env bash
# One offline job on several nodes of a Slurm cluster: sbatch slurm_ray.sh batch.jsonl MODEL
# Started again with the same files (also by --requeue, after a time limit) it goes on where it stopped.
#SBATCH --job-name=offline-batch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
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
trap 'kill -TERM "$job"' TERM
wait "$job" || wait "$job"
