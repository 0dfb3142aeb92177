#!/bin/bash
#SBATCH --job-name llava-rad
#SBATCH --nodes 2
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --cpus-per-task 64
#SBATCH --time 24:00:00
#SBATCH --signal TERM@300
# From the folder that holds scripts/; the same line again goes on from the newest checkpoint:
#   sbatch scripts/cluster/slurm.sh pretrain --config rad-dino -o /shared/encoder ...
set -euo pipefail
HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export HOST NODES=$SLURM_JOB_NUM_NODES GPUS=$SLURM_GPUS_ON_NODE JOB=$SLURM_JOB_ID
exec srun --ntasks-per-node 1 --kill-on-bad-exit=1 bash scripts/cluster/torchrun.sh "$@"
