#!/usr/bin/env bash
# Use a finished run: on texts from the command line, then on a file; the same command continues an interrupted one.
#
#   examples/run_inference.sh outputs/quickstart          # a classifier: labels and probabilities
#   examples/run_inference.sh outputs/quickstart_sft      # a language model: generated answers
#   examples/run_inference.sh outputs/mine my_rows.csv
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-.venv/bin/python}"
RUN="${1:-outputs/quickstart}"

if grep -q "task_type: CAUSAL_LM" "$RUN/run.yaml"; then
  ROWS=examples/quickstart/arithmetic/test.jsonl
  "$PYTHON" inference.py --run "$RUN" --input_text "Tom has 4 apples and buys 3 more. How many apples has Tom now?" --stream
else
  ROWS=examples/quickstart/acceptability/test.jsonl
  "$PYTHON" inference.py --run "$RUN" --input_text "The dog sleeps." --input_text "The dog sleep."
fi
"$PYTHON" inference.py --run "$RUN" --input_file "${2:-$ROWS}" --output_file "$RUN/answers.jsonl"
head -n 3 "$RUN/answers.jsonl"
