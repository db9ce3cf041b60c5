#!/usr/bin/env bash
# Shows what a suite would run, runs it, and names the table. The same command goes on where it was stopped or killed.
#
#   examples/benchmark.sh                                               the embedded suite, under three minutes
#   examples/benchmark.sh configs/benchmarks/glue_methods.yaml --task rte,mrpc --seeds 1,2,3
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-.venv/bin/python}"
SUITE="${1:-configs/benchmarks/quickstart.yaml}"
shift || true

"$PYTHON" benchmark.py --config "$SUITE" --dry-run "$@"
"$PYTHON" benchmark.py --config "$SUITE" "$@"
