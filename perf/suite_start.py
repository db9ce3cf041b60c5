"""Measure a suite's overhead of starting a run: seconds from train.py's first line to the first training step.

Also printed are the seconds per run from the start to the end of its process, and of the whole suite with reports.

The same short runs on the embedded base, either forked from one process that has imported the libraries or each in its
own process (`--no_fork`); the suites alternate. A forked suite waits once for the imports, included in its wall time.

  python perf/suite_start.py --runs 6 --repeat 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from perf.processes import run_suite

SUITE = {
    "suite": "start",
    "base": f"{ROOT}/configs/quickstart.yaml",
    "run": {
        "model.name_or_path": f"{ROOT}/examples/quickstart/base",
        "dataset": {
            "path": f"{ROOT}/examples/quickstart/acceptability",
            "max_train_samples": 48,
            "max_eval_samples": 32,
        },
        "training": {"num_train_epochs": 1, "use_cpu": True, "report_to": "none"},
        "results.formats": [],
    },
    "tasks": {"a": {}},
}


def main() -> None:
    """Run both kinds, alternating, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"forked": [], "own": []}
    for _ in range(options.repeat):
        found["forked"].append(_measure(options.runs))
        found["own"].append(_measure(options.runs, "--no_fork"))
    print(json.dumps({kind: _summarize(each) for kind, each in found.items()}, indent=1))


def _measure(runs: int, *words: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        done = run_suite({**SUITE, "seeds": list(range(1, runs + 1))}, Path(folder), *words)
        wall = time.monotonic() - started
        folders = [each for each in done.iterdir() if each.is_dir()]
        return {"wall_s": wall / runs, "runs": [_read(each) for each in folders]}


def _read(run: Path) -> tuple[float, float]:
    """Return the seconds from a run's first line to its first step, and from its first file to its end."""
    start, end = (run.with_name(run.name + ending).stat().st_mtime for ending in (".yaml", ".state.json"))
    return json.loads((run / "results.json").read_text())["time"]["time_to_first_step_s"], end - start


def _summarize(suites: list[dict[str, Any]]) -> dict[str, float]:
    runs = [run for suite in suites for run in suite["runs"]]
    return {
        "start_s": round(statistics.median(start for start, _ in runs), 2),
        "run_s": round(statistics.median(end for _, end in runs), 2),
        "suite_s_per_run": round(statistics.median(suite["wall_s"] for suite in suites), 2),
    }


if __name__ == "__main__":
    main()
