"""Train a classifier as a careful user's own script would: a plain transformers.Trainer, and peft's LoRA.

The kinds differ in their batches: `padded` pads to 128 tokens, as run_glue.py does by default; `dynamic` pads to the
longest row of the batch; `grouped` also uses the Trainer's own grouping by length.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from typing import Any

from transformers import TrainerCallback

KEYS = {"mrpc": ("sentence1", "sentence2"), "rte": ("sentence1", "sentence2"), "cola": ("sentence",)}
METRIC = {"mrpc": "f1", "rte": "accuracy", "cola": "matthews_correlation"}
KINDS = ("padded", "dynamic", "grouped")
LENGTH = 128
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Clock(TrainerCallback):
    """Log the cost of training, without imports before and evaluation after it; train.py uses it too."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.start, self.start_cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record when the first step ended."""
        if state.global_step == 1:
            self.first_s = time.perf_counter() - self.start

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the seconds and the process's peak memory so far to the saved history."""
        state.log_history.append({
            "clock": {
                "train_s": time.perf_counter() - self.start,
                "first_s": self.first_s,
                "cpu_s": time.process_time() - self.start_cpu,
                "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
                "steps": state.global_step,
            }
        })  # fmt: skip


def read_history(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the losses and what `Clock` logged."""
    losses = [log["loss"] for log in history if "loss" in log]
    return {"losses": losses, **next(log["clock"] for log in history if "clock" in log)}


def count_steps(options: argparse.Namespace) -> int:
    """Return the number of steps, -1 for whole epochs; `padded` has fewer, since its steps are all alike."""
    if options.losses:
        return 50
    return max(3, options.steps // 5) if options.steps > 0 and options.kind == "padded" else int(options.steps)


def run_plain(options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate, and return losses, score and seconds."""
    import numpy as np
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    set_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model, trust_remote_code=False)
    rows = _encode_rows(options, tokenizer)
    model = _build_model(options)
    name = METRIC[options.subset]
    scorer = {"f1": f1_score, "accuracy": accuracy_score, "matthews_correlation": matthews_corrcoef}[name]

    def score(prediction: Any) -> dict[str, float]:
        return {name: float(scorer(prediction.label_ids, np.argmax(prediction.predictions, axis=-1)))}

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(output_dir=folder, **_list_arguments(options)),
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=score,
            callbacks=[Clock],
        )
        trainer.train()
        final = {} if options.losses else trainer.evaluate()
    return {
        "score": final.get(f"eval_{name}", 0.0),
        "eval_loss": final.get("eval_loss", 0.0),
        "eval_s": final.get("eval_runtime", 0.0),
        **read_history(trainer.state.log_history),
    }


def _encode_rows(options: argparse.Namespace, tokenizer: Any) -> Any:
    from datasets import load_dataset

    keys, padding = KEYS[options.subset], "max_length" if options.kind == "padded" else False
    files = {split: f"{options.data}/{options.subset}/{split}-*.parquet" for split in ("train", "validation")}
    rows = load_dataset("parquet", data_files=files)
    if options.rows < len(rows["train"]):
        rows["train"] = rows["train"].shuffle(seed=options.seed).select(range(options.rows))
    if options.eval_rows < len(rows["validation"]):
        rows["validation"] = rows["validation"].select(range(options.eval_rows))

    def encode(batch: Any) -> Any:
        return tokenizer(*(batch[key] for key in keys), truncation=True, max_length=LENGTH, padding=padding)

    return rows.map(encode, batched=True)


def _build_model(options: argparse.Namespace) -> Any:
    from transformers import AutoModelForSequenceClassification, set_seed

    from utils.modeling.head import record_new_weights, reinitialize_head

    changed = NO_DROPOUT if options.losses else {}
    model, info = AutoModelForSequenceClassification.from_pretrained(
        options.model, num_labels=2, output_loading_info=True, trust_remote_code=False, **changed
    )
    record_new_weights(model, info, has_head=True)
    reinitialize_head(model, options.seed)  # the head that train.py draws from the same seed
    if options.method == "none":
        return model
    from peft import LoraConfig, get_peft_model

    set_seed(options.seed)
    lora = LoraConfig(
        task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"],
        lora_dropout=0.0 if options.losses else 0.1,
    )  # fmt: skip
    return get_peft_model(model, lora)


def _list_arguments(options: argparse.Namespace) -> dict[str, Any]:
    order = "sequential" if options.losses else "group_by_length" if options.kind == "grouped" else "random"
    return {
        "seed": options.seed, "data_seed": options.seed, "num_train_epochs": options.epochs,
        "max_steps": count_steps(options), "learning_rate": options.learning_rate, "warmup_steps": 0.06,
        "per_device_train_batch_size": options.batch, "per_device_eval_batch_size": options.batch,
        "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1 if options.losses else 10,
        "train_sampling_strategy": order, "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
