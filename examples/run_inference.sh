#!/usr/bin/env bash
# Classifies texts and a file with a finished run.
#
#   examples/run_inference.sh outputs/quickstart
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-.venv/bin/python}"
RUN="${1:-outputs/quickstart}"

"$PYTHON" inference.py --run "$RUN" --input_text "The dog sleeps." --input_text "The dog sleep."
"$PYTHON" inference.py --run "$RUN" --output_file "$RUN/answers.jsonl" \
  --input_file "${2:-examples/quickstart/acceptability/test.jsonl}"
head -n 3 "$RUN/answers.jsonl"
