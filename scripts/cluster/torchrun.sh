#!/bin/bash
# The same line on each machine; HOST is one of them, which the others reach on port 29500:
#   NODES=2 GPUS=8 HOST=node-1 scripts/cluster/torchrun.sh pretrain --config rad-dino -o /shared/encoder ...
set -euo pipefail
exec torchrun --nnodes "$NODES" --nproc-per-node "$GPUS" --rdzv-backend c10d --rdzv-id "${JOB:-llava-rad}" \
  --rdzv-endpoint "$HOST:29500" --no-python llava-rad "$@"
