"""Measure the memory of a generative evaluation by number of rows: evaluate_model.py on the embedded base.

Each number of rows runs in its own process, whose peak resident memory is read from the system. Answers have four
tokens, so that rows dominate the memory, not answers.

  python perf/evaluation_memory.py 1000 4000 16000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BASE = ROOT / "examples" / "quickstart" / "base"


def main() -> None:
    """Evaluate datasets of growing size and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="+", help="numbers of rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({str(count): _measure(Path(folder), count) for count in options.rows}, indent=1))


def _measure(folder: Path, count: int) -> dict[str, Any]:
    """Evaluate a number of rows; return the process's peak memory in MiB and its seconds."""
    file = folder / f"rows_{count}.jsonl"
    rows = ({"question": f"Tom has {index} books. He finds {index % 97} more.", "answer": f"#### {index}"}
            for index in range(count))  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [
        sys.executable, str(ROOT / "evaluate_model.py"), "--json", "--model", str(BASE),
        "--set", f"{{name: gsm8k, path: {file}}}", "--output_dir", str(folder / f"out_{count}"),
        "generation.max_new_tokens=4", "generation.batch_size=64",
    ]  # fmt: skip
    started = time.perf_counter()
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(said)
    return {"peak_mib": round(usage.ru_maxrss / 1024, 1), "seconds": round(time.perf_counter() - started, 1)}


if __name__ == "__main__":
    main()
