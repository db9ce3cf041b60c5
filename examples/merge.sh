#!/usr/bin/env bash
# Merge a finished run's adapter into its base: a plain model folder, with the verification in merge_report.json.
# inference.py accepts the folder by --run like a run; any other program loads it as a Hugging Face model.
#
#   examples/merge.sh outputs/quickstart_sft outputs/quickstart_sft_merged
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-.venv/bin/python}"
RUN="${1:-outputs/quickstart_sft}"

"$PYTHON" merge_adapter.py --run "$RUN" --output "${2:-${RUN%/}_merged}" --overwrite
