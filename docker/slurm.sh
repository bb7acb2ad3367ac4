#!/usr/bin/env bash
# A Ray cluster for the length of a Slurm job. Run `sbatch docker/slurm.sh [CONFIG] [KEY=VALUE]...` from the folder that
# holds the runs. A requeued job resumes from the run's last checkpoint.
#SBATCH --job-name=impala-mi
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
# For learner.num_gpus=1: #SBATCH --gpus-per-node=1
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail

config=${1:-dmlab30}
overrides=("${@:2}")
port=$((20000 + SLURM_JOB_ID % 20000))
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --overlap --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')

# Only this user can read the token; srun passes it to the nodes through its own channel.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(openssl rand -hex 32)

# Nor can others enter the folder of Ray's sockets and logs. Ray's own choice, /tmp/ray, is open to all users of a node.
folder=/tmp/impala-mi-ray-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
# shellcheck disable=SC2016 # the shell of each node expands it
private='mkdir -m 700 "$0" && trap "rm -rf \"$0\"" EXIT && "$@"'

srun --overlap --nodes=1 --ntasks=1 -w "$head" bash -c "$private" "$folder" ray start --head --block --port="$port" \
  --temp-dir="$folder/ray" --node-ip-address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false &
for _ in $(seq 60); do
  ray health-check --address "$address:$port" >/dev/null 2>&1 && break
  sleep 2
done
if ((${#nodes[@]} > 1)); then
  srun --overlap --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --exclude="$head" \
    bash -c "$private" "$folder" ray start --block --address="$address:$port" --temp-dir="$folder/ray" \
    --num-cpus="$SLURM_CPUS_PER_TASK" &
fi

# The script runs on the first node and gets a signal two minutes before its time limit, so that the run writes a
# checkpoint. The driver is started without srun, which would pass the signal on and kill the driver at once.
export RAY_ADDRESS="$address:$port"
impala-mi train "$config" --resume auto run.name="${RUN_NAME:-$SLURM_JOB_NAME}" "${overrides[@]}" &
training=$!
trap 'kill -TERM "$training"' TERM
status=0
wait "$training" || status=$?
if kill -0 "$training" 2>/dev/null; then # the signal ended the wait
  status=0
  wait "$training" || status=$?
fi
if ((status == 130)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
