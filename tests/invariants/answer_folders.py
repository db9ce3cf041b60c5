"""Run inference.py for many command lines in one new process: a JSON list in, their exit codes out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    import inference
    from utils.cli.command_line import run_cli

    lines = json.load(sys.stdin)
    json.dump([run_cli(inference.main, inference.build(), words) for words in lines], sys.stdout)
