"""Measure side tuning over seeds: seconds of training of each run without a cache, with one in memory, and on disk.

One suite on one base and dataset, seed after seed for each kind. In memory each run computes the backbone's states
once; on disk the first run does, and the runs of all other seeds read them. The scores of the kinds must be equal.

  python perf/qst_seeds.py --model FOLDER --data $LORA_NS_REAL_DATA/glue --subset wnli
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from perf.processes import run_suite


def main() -> None:
    """Run the suite and print one JSON object."""
    options = _parse()
    with tempfile.TemporaryDirectory() as folder:
        caches: dict[str, Any] = {"off": "off", "memory": "auto", "disk": {"where": "disk", "dir": f"{folder}/states"}}
        runs = run_suite(_describe_suite(options, caches), Path(folder))
        read = {kind: [_read(runs / f"rows-{kind}-s{seed}") for seed in options.seeds] for kind in caches}
    print(
        json.dumps(
            {
                kind: {
                    "train_s": [run["train_s"] for run in each],
                    "all_s": sum(run["train_s"] for run in each),
                    "scores": [run["score"] for run in each],
                }
                for kind, each in read.items()
            },
            indent=1,
        )
    )


def _describe_suite(options: argparse.Namespace, caches: dict[str, Any]) -> dict[str, Any]:
    peft = {"method": "qst", "reduction_factor": 8}
    run: dict[str, Any] = {
        "model.name_or_path": str(Path(options.model).resolve()),
        "dataset": {"path": str(Path(options.data).resolve()), "subset": options.subset},
        "training": {"num_train_epochs": options.epochs, "learning_rate": 1e-3, "report_to": "none", "use_cpu": True},
        "results.formats": [],
    }
    return {
        "suite": "seeds", "base": f"{ROOT}/configs/glue_mrpc.yaml", "run": run, "tasks": {"rows": {}},
        "methods": {kind: {"peft": {**peft, "cache": cache}} for kind, cache in caches.items()}, "seeds": options.seeds,
    }  # fmt: skip


def _read(run: Path) -> dict[str, float]:
    record = json.loads((run / "results.json").read_text("utf-8"))
    return {"train_s": record["time"]["train_runtime_s"], "score": record["metrics"][record["headline"]]}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a BERT-like encoder")
    parser.add_argument("--data", required=True, help="folder of GLUE in the hub's layout")
    parser.add_argument("--subset", default="wnli")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    return parser.parse_args()


if __name__ == "__main__":
    main()
