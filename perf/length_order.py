"""Compare batches of rows of similar length with randomly drawn batches: held-out loss over seeds.

The same runs in both orders with the same seeds, as one suite. Printed is a table: at each evaluation the loss of both
orders as mean and standard deviation over seeds, and the mean of the paired differences with its 95 % interval
(Student's t). Below it are the final scores and the seconds of training, which mean little on a busy machine.

  python perf/length_order.py
  python perf/length_order.py --model FOLDER --data $LORA_NS_REAL_DATA/glue --subset cola --epochs 2 --batch 32
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from perf.processes import run_suite

ORDERS = {"sorted": "group_by_length", "drawn": "random"}


def main() -> None:
    """Run the suite and print the table."""
    options = _parse()
    with tempfile.TemporaryDirectory() as folder:
        done = run_suite(_describe_suite(options), Path(folder))
        runs = {order: [_read(done / f"rows-{order}-s{seed}") for seed in options.seeds] for order in ORDERS}
    print("| at | " + " | ".join([*ORDERS, "difference by seed (95 %)"]) + " |\n|---|---|---|---|")
    for name in next(iter(runs.values()))[0]:
        columns = [[run[name] for run in runs[order]] for order in ORDERS]
        differences = [left - right for left, right in zip(*columns, strict=True)]
        print("| " + " | ".join([name, *map(_show, columns), _show(differences, interval=True)]) + " |")


def _describe_suite(options: argparse.Namespace) -> dict[str, Any]:
    run: dict[str, Any] = {
        "training": {
            "num_train_epochs": options.epochs, "per_device_train_batch_size": options.batch, "report_to": "none",
            "eval_strategy": "steps", "eval_steps": 1 / options.points, "save_strategy": "no",
            "load_best_model_at_end": False, "use_cpu": True,
        },
        "results.formats": [],
    }  # fmt: skip
    base = "quickstart"
    if options.model:
        base = "glue_mrpc"
        run["training"]["learning_rate"] = options.learning_rate
        run |= {"model.name_or_path": str(Path(options.model).resolve())}
        run["dataset"] = {"path": str(Path(options.data).resolve()), "subset": options.subset}
    else:
        run |= {"model.name_or_path": f"{ROOT}/examples/quickstart/base"}
        run["dataset"] = {"path": f"{ROOT}/examples/quickstart/acceptability"}
    orders = {order: {"training.train_sampling_strategy": value} for order, value in ORDERS.items()}
    tasks: dict[str, Any] = {"rows": {}}
    config = f"{ROOT}/configs/{base}.yaml"
    return {"suite": "order", "base": config, "run": run, "tasks": tasks, "methods": orders, "seeds": options.seeds}


def _read(run: Path) -> dict[str, float]:
    """Return a run's held-out losses by step, its score and its seconds."""
    record = json.loads((run / "results.json").read_text("utf-8"))
    history = json.loads((run / "trainer_state.json").read_text("utf-8"))["log_history"]
    losses = {f"loss, step {log['step']}": log["eval_loss"] for log in history if "eval_loss" in log}
    return losses | {
        record["headline"]: record["metrics"][record["headline"]],
        "seconds": record["time"]["train_runtime_s"],
    }


def _show(values: Sequence[float], interval: bool = False) -> str:
    import pandas as pd

    from utils.benchmark.statistics import compute_stat

    stat = compute_stat(pd.Series(values))
    assert stat is not None, "there is a seed at least"
    if (bounds := stat.interval()) is None:
        return f"{stat.mean:.4f}"
    spread = f"({bounds[0]:.4f} .. {bounds[1]:.4f})" if interval else f"± {stat.deviation:.4f}"
    return f"{stat.mean:.4f} {spread}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a BERT-like encoder; without it, the embedded example is trained")
    parser.add_argument("--data", help="folder of GLUE in the hub's layout")
    parser.add_argument("--subset", default="cola")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--points", type=int, default=8, help="evaluations per run")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
