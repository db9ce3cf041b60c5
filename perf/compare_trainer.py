r"""Compare train.py with a plain transformers.Trainer script for classification: losses per step, score, and speed.

All kinds (perf/plain_classifier.py) train on the same rows with the same hyper-parameters, initial head and seed.
With --losses all use one row order, without dropout, in float32, and the first losses must agree. Without it they
alternate, each run in its own process, and medians are printed: seconds of training, per step and of the final
evaluation, rows per second, CPU seconds of training, and peak resident memory up to its end.
A shape instead of a model has random weights: it shows the speed, but no score. With --steps that many steps in the
dataset's order are timed, except the first, which has our longest rows; otherwise whole epochs are.

  python perf/compare_trainer.py --model FOLDER --data $LORA_NS_REAL_DATA/glue --subset mrpc --losses
  python perf/compare_trainer.py --shape bert-base --tokenizer $LORA_NS_REAL_DATA/tokenizers/bert-base-uncased \
      --data $LORA_NS_REAL_DATA/glue --subset rte --rows 320
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from perf.plain_classifier import (
    KEYS,
    KINDS,
    LENGTH,
    METRIC,
    NO_DROPOUT,
    count_steps,
    read_history,
    run_plain,
)
from perf.processes import give_result, read_result

SHAPES = {"bert-base": (768, 12, 12), "minilm": (384, 6, 12), "tiny": (128, 2, 2)}
"""Width, number of layers and heads; the MLP is four times as wide."""


def main() -> None:
    """Run the comparison and print one JSON object."""
    options = _parse()
    if options.kind:
        give_result(run_plain(options))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            options.model = _write_shape(options, Path(folder) / "model")
        print(json.dumps(_compare_losses(options) if options.losses else _compare_speed(options), indent=1))


def _compare_losses(options: argparse.Namespace) -> dict[str, Any]:
    ours, plain = (_run_kind(kind, options)["losses"] for kind in ("ours", "dynamic"))
    pairs = list(zip(ours, plain, strict=True))
    worst = max(abs(left - right) for left, right in pairs)
    return {"steps": len(pairs), "largest_loss_difference": worst, "first": pairs[0], "last": pairs[-1]}


def _compare_speed(options: argparse.Namespace) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in options.kinds}
    for _ in range(options.repeat):
        for kind in options.kinds:
            runs[kind].append(_run_kind(kind, options))
            print(kind, json.dumps(runs[kind][-1] | {"losses": None}), file=sys.stderr)
    answer: dict[str, Any] = {name: getattr(options, name) for name in ("subset", "method", "epochs", "batch")}
    for kind, results in runs.items():
        median = {name: statistics.median(each[name] for each in results) for name in results[0] if name != "losses"}
        first_s, first = (median["first_s"], 1) if options.steps > 0 else (0, 0)
        median["step_s"] = (median["train_s"] - first_s) / (median["steps"] - first)
        median["rows_per_s"] = options.batch / median["step_s"]
        answer[kind] = {name: round(value, 4) for name, value in median.items()}
    ours = answer["ours"]["step_s"]
    return answer | {"over_ours": {kind: round(answer[kind]["step_s"] / ours, 2) for kind in options.kinds}}


def _run_kind(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    if kind == "ours":
        return _run_ours(options)
    words = [f"--{name}={getattr(options, name)}" for name in _PASSED]
    output = _run([__file__, *words, "--kind", kind, *(["--losses"] if options.losses else [])], kind)
    answer: dict[str, Any] = read_result(output)
    return answer


def _run_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Run train.py as a user would and read its run folder."""
    folder = Path(tempfile.mkdtemp())
    name = METRIC[options.subset]
    words = [
        f"model.name_or_path={options.model}", f"dataset.path={options.data}", f"dataset.subset={options.subset}",
        f"dataset.max_train_samples={options.rows}", f"dataset.max_eval_samples={options.eval_rows}",
        f"dataset.max_length={LENGTH}", f"seed={options.seed}",
        f"training.output_dir={folder / 'run'}", f"training.num_train_epochs={options.epochs}",
        f"training.learning_rate={options.learning_rate}", f"training.per_device_train_batch_size={options.batch}",
        f"training.per_device_eval_batch_size={options.batch}", f"peft.method={options.method}",
        "training.eval_strategy=no", "training.save_strategy=no", "results.formats=[]",
        "training.callbacks=[perf.plain_classifier:Clock]",
    ]  # fmt: skip
    words += [f"training.max_steps={count_steps(options)}"] if options.steps > 0 or options.losses else []
    if options.losses:
        words += ["training.logging_steps=1", "training.train_sampling_strategy=sequential"]
        words += [f"model.name_or_path={_calm_copy(options, folder)}"]
        words += ["peft.lora_dropout=0"] if options.method == "lora" else []
    _run([str(ROOT / "train.py"), "--config", str(ROOT / "configs/glue_mrpc.yaml"), *words], "train.py")
    record = json.loads((folder / "run/results.json").read_text())
    state = json.loads((folder / "run/trainer_state.json").read_text())
    evaluated = json.loads((folder / "run/eval_results.json").read_text())
    shutil.rmtree(folder)
    return {
        "score": record["metrics"][name],
        "eval_loss": record["metrics"]["loss"],
        "eval_s": evaluated["eval_runtime"],
        **read_history(state["log_history"]),
    }


def _run(command: list[str], what: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def _write_shape(options: argparse.Namespace, folder: Path) -> Path:
    """Save a checkpoint of random weights, the same each time."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    tokenizer = BertTokenizerFast.from_pretrained(
        options.tokenizer, trust_remote_code=False
    )  # defines its special tokens
    width, layers, heads = SHAPES[options.shape]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)  # including the pooler, as in the hub's checkpoints
    tokenizer.save_pretrained(folder)
    return folder


def _calm_copy(options: argparse.Namespace, folder: Path) -> Path:
    """Copy the checkpoint with dropout switched off in its config."""
    copy = shutil.copytree(options.model, folder / "model")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **NO_DROPOUT}))
    return copy


_PASSED = (
    "model", "data", "subset", "method", "epochs", "rows", "eval_rows", "batch", "learning_rate", "seed", "steps",
)  # fmt: skip


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a BERT-like encoder")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="minilm", help="without --model")
    parser.add_argument("--tokenizer", help="folder of BERT's tokenizer, for a shape")
    parser.add_argument("--data", required=True, help="folder of GLUE in the hub's layout")
    parser.add_argument("--subset", choices=sorted(KEYS), default="mrpc")
    parser.add_argument("--method", choices=["lora", "none"], default="lora")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--eval_rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=-1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=("ours", *KINDS), default=["ours", *KINDS])
    parser.add_argument("--losses", action="store_true", help="compare the first 50 losses, without dropout")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
