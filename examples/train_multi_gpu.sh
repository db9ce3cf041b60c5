#!/usr/bin/env bash
# Train one run on all GPUs of this machine. Costs and limits of each strategy: docs/distributed.md.
#
#   examples/train_multi_gpu.sh configs/glue_mrpc.yaml                        DDP: every GPU holds the whole model
#   examples/train_multi_gpu.sh configs/metamath_qa.yaml fsdp2 training.bf16=true evaluation.at_end=false
#   examples/train_multi_gpu.sh configs/metamath_qa.yaml zero3 training.bf16=true evaluation.at_end=false
#   NUM_GPUS=2 examples/train_multi_gpu.sh configs/glue_mrpc.yaml ddp training.global_batch_size=64
#
# The second argument is a file of configs/accelerate/. A global batch size keeps the run the same on any number of GPUs.
set -euo pipefail
cd "$(dirname "$0")/.."

CONFIG="${1:?name a configuration, such as configs/glue_mrpc.yaml}"
shift
WAY=ddp
case "${1:-}" in
  ddp | fsdp2 | zero2 | zero3) WAY="$1"; shift ;;
esac
NUM_GPUS="${NUM_GPUS:-$(nvidia-smi -L | grep -c '^GPU ')}"
ACCELERATE="${ACCELERATE:-.venv/bin/accelerate}"

exec "$ACCELERATE" launch --config_file "configs/accelerate/$WAY.yaml" --num_processes "$NUM_GPUS" \
  train.py --config "$CONFIG" "$@"
