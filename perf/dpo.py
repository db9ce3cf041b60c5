"""Measure preference tuning: pairs per second and peak memory of our DPO and of TRL's DPOTrainer.

Both train LoRA on all linear layers of a Llama shape with random weights and 26 M parameters besides the embeddings,
in float32, on the same pairs (a JSON list with conversations, chosen and rejected) in the same order. Each run is a
separate process; they alternate, and medians are printed with the losses, which must agree. `padded` pads batches,
`precomputed` computes the reference's log-probabilities before training.

DATA is the folder of real rows (LORA_NS_REAL_DATA):

  python perf/dpo.py --rows DATA/preference/dpo_en_demo.json --tokenizer DATA/tokenizers/qwen2.5
"""

from __future__ import annotations

import argparse
import json
import resource
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

KINDS = ("trl", "padded", "ours", "precomputed")


def main() -> None:
    """Run the kinds, alternating, and print one JSON object."""
    options = _parse()
    if options.kind:
        give_result(_train(options))
        return
    runs = run_in_turn(options.kinds, options.repeat, "pairs_per_s")
    answer = {
        kind: {
            "pairs_per_s": round(statistics.median(each["pairs_per_s"] for each in results), 3),
            "all": [round(each["pairs_per_s"], 3) for each in results],
            "peak_rss_gb": round(statistics.median(each["peak_rss_gb"] for each in results), 2),
            "losses": [round(loss, 5) for loss in results[0]["losses"][:3]],
        }
        for kind, results in runs.items()
    }
    print(json.dumps(answer, indent=1))


def _train(options: argparse.Namespace) -> dict[str, Any]:
    """Train one kind; the first step is not timed."""
    from utils.core.logs import prepare_libraries

    if options.kind != "trl":  # as train.py does
        prepare_libraries()
    from transformers import AutoTokenizer, TrainerCallback

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    times: list[float] = []

    class Clock(TrainerCallback):
        """Read the clock after every step."""

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            """Record the time."""
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = _build(options, _encode(options, tokenizer), tokenizer, folder)
        trainer.add_callback(Clock())
        trainer.train()
    return {
        "pairs_per_s": (len(times) - 1) * options.batch / (times[-1] - times[0]),
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
    }


def _encode(options: argparse.Namespace, tokenizer: Any) -> list[tuple[list[int], list[int], list[int]]]:
    """Encode prompts with their two answers, in the order in which every kind trains on them."""
    rows = json.loads(Path(options.rows).read_text("utf-8"))[: options.steps * options.batch]
    encoded = []
    for row in rows:
        prompt = tokenizer(row["conversations"][-1]["value"])["input_ids"][: options.length // 2]
        room = options.length - len(prompt) - 1
        answers = [tokenizer(row[side]["value"])["input_ids"][:room] for side in ("chosen", "rejected")]
        encoded.append((prompt, *([*answer, tokenizer.eos_token_id] for answer in answers)))
    return encoded


def _build(options: argparse.Namespace, rows: list[Any], tokenizer: Any, folder: str) -> Any:
    from datasets import Dataset
    from transformers import TrainingArguments
    from trl import DPOConfig, DPOTrainer

    from utils.adapters.lora.fused_layer import fuse_lora_layers
    from utils.tasks.dpo.section import DpoSection
    from utils.tasks.dpo.trainer import DpoTrainer
    from utils.tasks.preference.batches import REFERENCE, PreferenceCollator
    from utils.trainer.varlen_attention import require_separate_documents

    model, shared = build_small_llama(len(tokenizer)), list_arguments(folder, options.batch)
    if options.kind == "trl":
        pairs = Dataset.from_list([{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in rows])
        DPOTrainer._prepare_dataset = lambda self, given, *_: given  # they are encoded
        arguments = DPOConfig(**shared, bf16=False, gradient_checkpointing=False, max_length=None)
        return DPOTrainer(model=model, args=arguments, train_dataset=pairs, processing_class=tokenizer)
    masked = [[-100] * len(prompt) for prompt, _, _ in rows]
    pairs = Dataset.from_list([
        {"input_ids": p + c, "labels": m + c, "rejected_input_ids": p + r, "rejected_labels": m + r}
        for (p, c, r), m in zip(rows, masked, strict=True)
    ])  # fmt: skip
    if options.kind != "padded":
        require_separate_documents(model)
    fuse_lora_layers(model)
    trainer = DpoTrainer(
        model=model, section=DpoSection(), args=TrainingArguments(**shared), train_dataset=pairs,
        data_collator=PreferenceCollator(tokenizer.pad_token_id, padding_free=options.kind != "padded"),
    )  # fmt: skip
    if (
        options.kind == "precomputed"
    ):  # the reference's log-probabilities are not timed: they are computed once, before training
        found = []
        with trainer.as_start() as start:
            for row in pairs:
                found.append(trainer.reference_of(start, trainer.data_collator([row])).tolist())
        trainer.train_dataset = pairs.add_column(REFERENCE, found)
    return trainer


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__, steps=6, batch=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
