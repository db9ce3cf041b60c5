#!/usr/bin/env bash
# Fine-tune BERT on GLUE tasks, one run each; finished runs are not repeated.
#
#   examples/train_glue.sh                          all nine tasks, full fine-tuning
#   examples/train_glue.sh "mrpc rte" peft.method=lora training.learning_rate=3e-4
#   PYTHON=python GLUE_DATA=FOLDER examples/train_glue.sh mrpc        rows from a local folder
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-.venv/bin/python}"
TASKS="${1:-cola sst2 mrpc stsb qqp mnli qnli rte wnli}"
shift || true

for task in $TASKS; do
  epochs=5
  [ "$task" = mnli ] && epochs=3
  "$PYTHON" train.py --config configs/glue_bert.yaml \
    dataset.subset="$task" training.num_train_epochs="$epochs" training.output_dir="outputs/glue_bert_$task" \
    ${GLUE_DATA:+dataset.path="$GLUE_DATA"} "$@"
done
