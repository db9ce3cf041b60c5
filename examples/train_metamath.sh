#!/usr/bin/env bash
# Fine-tune on MetaMathQA and score the run on GSM8K; a finished run is not repeated.
#
#   examples/train_metamath.sh                                       Llama-2-7B as in configs/metamath_qa.yaml
#   examples/train_metamath.sh model.quantization=nf4 dataset.max_train_samples=40000
#   examples/train_metamath.sh model.name_or_path=Qwen/Qwen2.5-0.5B training.output_dir=outputs/metamath_small
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-.venv/bin/python}"
"$PYTHON" train.py --config configs/metamath_qa.yaml --preview 1 "$@"
"$PYTHON" train.py --config configs/metamath_qa.yaml "$@"
