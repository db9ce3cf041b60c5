#!/usr/bin/env bash
# CoLA with LoRA on Qwen2.5-1.5B: on one GPU in bfloat16, or in 4 bits if memory is short.
#
#   examples/train_cola_qwen.sh
#   examples/train_cola_qwen.sh nf4
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-.venv/bin/python}"
BITS="${1:-null}"
"$PYTHON" train.py --config configs/glue_cola_qwen.yaml --gpu "${GPU:-0}" \
  model.quantization="$BITS" training.output_dir="outputs/glue_cola_qwen_$BITS" "${@:2}"
