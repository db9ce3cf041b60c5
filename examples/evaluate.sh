#!/usr/bin/env bash
# Score the answers of the base model and of a finished run to the same questions.
#
#   examples/evaluate.sh outputs/quickstart_sft
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-.venv/bin/python}"
RUN="${1:-outputs/quickstart_sft}"
SUMS="path: examples/quickstart/arithmetic"

"$PYTHON" evaluate_model.py --run "$RUN"
# The base knows sums in words, but neither "Question:" nor "####", so it gets a prompt in its own format.
"$PYTHON" evaluate_model.py --model examples/quickstart/base \
  'dataset.prompt_template="{question}"' generation.max_new_tokens=64 \
  --set "{name: gsm8k, $SUMS, label: test}" --set "{name: gsm8k, $SUMS, split: test_unseen, label: unseen}"
