"""Measure supervised fine-tuning: real tokens per second of ours, a plain transformers.Trainer and TRL's SFTTrainer.

All train on the same rows (columns question and answer) in the same order with the same seed and hyper-parameters: LoRA
on all linear layers of a Llama shape with random weights, float32. Each run is a separate process; they alternate, and
medians are printed with the losses, which must agree. `packed` fills rows instead, so that a step has about as many
tokens. `bf16` is `packed` with training.bf16: true.

  python perf/sft.py --rows $LORA_NS_REAL_DATA/gsm8k/train.jsonl --tokenizer $LORA_NS_REAL_DATA/tokenizers/gpt2
  python perf/sft.py --rows FILE --tokenizer FOLDER --steps 20 --repeat 5 --kinds plain ours packed
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

from perf.command_line import make_parser
from perf.processes import give_result, run_in_turn
from perf.small_llama import build_small_llama, list_arguments

KINDS = ("plain", "trl", "padded", "ours", "packed", "bf16")
OURS = ("ours", "packed", "bf16")
LENGTH = 512


def main() -> None:
    """Run the kinds, alternating, and print one JSON object."""
    options = _parse()
    if options.kind:
        give_result(_train(options))
        return
    runs = run_in_turn(options.kinds, options.repeat, "tokens_per_s")
    answer: dict[str, Any] = {}
    for kind, results in runs.items():
        answer[kind] = {
            "tokens_per_s": round(statistics.median(each["tokens_per_s"] for each in results)),
            "all": [round(each["tokens_per_s"]) for each in results],
            "peak_rss_gb": round(statistics.median(each["peak_rss_gb"] for each in results), 2),
            "first_loss": results[0]["losses"][0],
            "mean_loss": round(statistics.mean(results[0]["losses"]), 5),
        }
    if "plain" in answer:
        base = answer["plain"]["tokens_per_s"]
        answer["over_plain"] = {kind: round(answer[kind]["tokens_per_s"] / base, 2) for kind in options.kinds}
    print(json.dumps(answer, indent=1))


def _train(options: argparse.Namespace) -> dict[str, Any]:
    """Train one kind; the first step is not timed."""
    import resource

    from utils.core.logs import prepare_libraries

    if options.kind in OURS:  # as train.py does
        prepare_libraries()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = encode_rows(options, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(options, rows, tokenizer, folder)
        clock = _add_clock(trainer)
        trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return {
        "tokens_per_s": clock.tokens / clock.seconds,
        "losses": losses,
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
    }


def encode_rows(options: argparse.Namespace, tokenizer: Any) -> Any:
    """Encode the training rows, in the order in which every kind trains on them."""
    from datasets import Dataset

    lines = Path(options.rows).read_text("utf-8").splitlines()[: options.steps * options.batch]
    encoded = []
    for line in lines:
        row = json.loads(line)
        prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        answer = [*tokenizer(f" {row['answer']}")["input_ids"], tokenizer.eos_token_id]
        ids = (prompt + answer)[:LENGTH]
        encoded.append({"input_ids": ids, "labels": ([-100] * len(prompt) + answer)[:LENGTH], "length": len(ids)})
    return Dataset.from_list(encoded)


def build_trainer(options: argparse.Namespace, rows: Any, tokenizer: Any, folder: str) -> Any:
    """Build the trainer of a kind."""
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from utils.adapters.lora.fused_layer import fuse_lora_layers
    from utils.tasks.sft.building import pack_rows
    from utils.tasks.sft.trainer import CausalTrainer
    from utils.trainer.varlen_attention import require_separate_documents

    model = build_small_llama(len(tokenizer))
    kind, batch = options.kind, options.batch
    if kind in ("packed", "bf16"):
        rows = pack_rows(rows, LENGTH)
        batch = max(1, round(options.batch * len(rows) / (options.steps * options.batch)))
    shared = {**list_arguments(folder, batch), "include_num_input_tokens_seen": "non_padding"}
    own: dict[str, Any] = {"bf16": kind == "bf16", "gradient_checkpointing": False, "max_length": None}
    own["dataset_kwargs"] = {"skip_prepare_dataset": True}
    if kind == "plain":
        collate: Any = DataCollatorForSeq2Seq(tokenizer)
        trainer: Any = Trainer(model, TrainingArguments(**shared), collate, rows.remove_columns("length"))
    else:
        flattened = kind in OURS
        if flattened:
            require_separate_documents(model)
            fuse_lora_layers(model)
        collate = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id, padding_free=flattened)
        trainer = (SFTTrainer if kind == "trl" else CausalTrainer)(
            model=model, args=SFTConfig(**shared, **own), data_collator=collate, train_dataset=rows,
            processing_class=tokenizer,
        )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def _add_clock(trainer: Any) -> Any:
    """Count tokens and seconds from the end of the first step to the end of the last."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Read the clock after every step."""

        start = (0.0, 0)
        seconds = 0.0
        tokens = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Record tokens and seconds since the first step."""
            now = (time.perf_counter(), state.num_input_tokens_seen)
            if state.global_step == 1:
                self.start = now
            self.seconds, self.tokens = now[0] - self.start[0], now[1] - self.start[1]

    clock = Clock()
    trainer.add_callback(clock)
    return clock


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
