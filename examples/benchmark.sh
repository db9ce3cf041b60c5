#!/usr/bin/env bash
# Show what a suite would run, run it, and print the table's path. The same command continues an interrupted suite.
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
