"""Compare train.py with a plain transformers.Trainer script: losses step by step, score, and seconds.

The plain script is what a careful user would write by hand: dynamic padding, the library's defaults, the
same data, seed and hyper-parameters. With --losses both train on the same order of rows, without dropout, in
float32, and the first losses must agree; without it they run in turn and the medians are printed.

  python perf/compare_trainer.py --model FOLDER --data $LORA_NS_REAL_DATA/glue --subset mrpc --method lora --losses
  python perf/compare_trainer.py --model FOLDER --data $LORA_NS_REAL_DATA/glue --subset rte --method none --repeat 3
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

from perf.processes import give_result, read_result  # noqa: E402  after the path of the library

KEYS = {"mrpc": ("sentence1", "sentence2"), "rte": ("sentence1", "sentence2"), "cola": ("sentence",)}
METRIC = {"mrpc": "f1", "rte": "accuracy", "cola": "matthews_correlation"}


def main() -> None:
    """Run the comparison and print one JSON object."""
    options = _parse()
    if options.plain:
        give_result(run_plain(options))
        return
    if options.losses:
        ours, plain = _run_ours(options), _run_plain_process(options)
        pairs = list(zip(ours["losses"], plain["losses"], strict=True))
        worst = max(abs(left - right) for left, right in pairs)
        print(json.dumps({"steps": len(pairs), "largest_loss_difference": worst, "first": pairs[0], "last": pairs[-1]}))
        return
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
    for _ in range(options.repeat):
        runs["ours"].append(_run_ours(options))
        runs["plain"].append(_run_plain_process(options))
    answer: dict[str, Any] = {"subset": options.subset, "method": options.method, "epochs": options.epochs}
    for name, results in runs.items():
        answer[name] = {
            "score": [round(result["score"], 4) for result in results],
            "train_runtime_s": statistics.median(result["train_runtime_s"] for result in results),
        }
    answer["plain_over_ours"] = round(answer["plain"]["train_runtime_s"] / answer["ours"]["train_runtime_s"], 3)
    print(json.dumps(answer))


def run_plain(options: argparse.Namespace) -> dict[str, Any]:
    """Train by a plain script and give losses, score and seconds."""
    import numpy as np
    from datasets import load_dataset
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model, trust_remote_code=False)
    keys = KEYS[options.subset]
    files = {split: f"{options.data}/{options.subset}/{split}-*.parquet" for split in ("train", "validation")}
    rows = load_dataset("parquet", data_files=files)
    if options.rows < len(rows["train"]):
        rows["train"] = rows["train"].shuffle(seed=options.seed).select(range(options.rows))
    rows = rows.map(lambda row: tokenizer(*(row[key] for key in keys), truncation=True, max_length=128), batched=True)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        options.model, num_labels=2, output_loading_info=True, trust_remote_code=False, **_no_dropout(options)
    )
    _draw_head(model, info, options.seed)
    if options.method == "lora":
        from peft import LoraConfig, get_peft_model

        set_seed(options.seed)
        config = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
        model = get_peft_model(model, config)
    scorer = {"f1": f1_score, "accuracy": accuracy_score, "matthews_correlation": matthews_corrcoef}

    def score(prediction: Any) -> dict[str, float]:
        name = METRIC[options.subset]
        return {name: float(scorer[name](prediction.label_ids, np.argmax(prediction.predictions, axis=-1)))}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            seed=options.seed,
            data_seed=options.seed,
            num_train_epochs=options.epochs,
            max_steps=50 if options.losses else -1,
            learning_rate=options.learning_rate,
            per_device_train_batch_size=options.batch,
            per_device_eval_batch_size=options.batch,
            eval_strategy="no" if options.losses else "epoch",
            save_strategy="no" if options.losses else "epoch",
            load_best_model_at_end=not options.losses,
            metric_for_best_model=None if options.losses else METRIC[options.subset],
            logging_steps=1 if options.losses else 10,
            train_sampling_strategy="sequential" if options.losses else "random",
            save_total_limit=2,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=score,
        )
        seconds = trainer.train().metrics["train_runtime"]
        final = {} if options.losses else trainer.evaluate()
    return {
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "score": final.get(f"eval_{METRIC[options.subset]}", 0.0),
        "train_runtime_s": seconds,
    }


def _run_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Run train.py as a user would and read its run folder."""
    folder = Path(tempfile.mkdtemp())
    name = METRIC[options.subset]
    words = [
        f"model.name_or_path={options.model}", f"dataset.path={options.data}", f"dataset.subset={options.subset}",
        f"dataset.max_train_samples={options.rows}", f"seed={options.seed}", f"training.output_dir={folder / 'run'}",
        f"training.num_train_epochs={options.epochs}", f"training.learning_rate={options.learning_rate}",
        f"training.per_device_train_batch_size={options.batch}", f"training.per_device_eval_batch_size={options.batch}",
        f"peft.method={options.method}", f"training.metric_for_best_model={name}", "results.formats=[]",
    ]  # fmt: skip
    if options.losses:
        words += ["training.max_steps=50", "training.logging_steps=1", "training.train_sampling_strategy=sequential"]
        words += ["training.eval_strategy=no", "training.save_strategy=no", f"model.name_or_path={_calm_copy(options)}"]
    _run([str(ROOT / "train.py"), "--config", str(ROOT / "configs/glue_mrpc.yaml"), *words], "train.py")
    record = json.loads((folder / "run/results.json").read_text())
    history = json.loads((folder / "run/trainer_state.json").read_text())["log_history"]
    shutil.rmtree(folder)
    return {
        "losses": [log["loss"] for log in history if "loss" in log],
        "score": record["metrics"][name],
        "train_runtime_s": record["time"]["train_runtime_s"],
    }


def _run_plain_process(options: argparse.Namespace) -> dict[str, Any]:
    output = _run([__file__, *sys.argv[1:], "--plain"], "the plain script")
    answer: dict[str, Any] = read_result(output)
    return answer


def _run(command: list[str], what: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def _no_dropout(options: argparse.Namespace) -> dict[str, float]:
    return {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if options.losses else {}


def _calm_copy(options: argparse.Namespace) -> Path:
    """Copy the checkpoint with dropout switched off in its config."""
    folder = Path(tempfile.mkdtemp()) / "model"
    shutil.copytree(options.model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **_no_dropout(options)}))
    return folder


def _draw_head(model: Any, info: dict[str, Any], seed: int) -> None:
    """Start from the head that train.py draws from the same seed."""
    from utils.modeling.head import record_new_weights, reinitialize_head

    record_new_weights(model, info, has_head=True)
    reinitialize_head(model, seed)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a BERT-like encoder")
    parser.add_argument("--data", required=True, help="folder of GLUE in the hub's layout")
    parser.add_argument("--subset", choices=sorted(KEYS), default="mrpc")
    parser.add_argument("--method", choices=["lora", "none"], default="lora")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--losses", action="store_true", help="compare the first 50 losses, without dropout")
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
