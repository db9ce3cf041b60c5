"""Measures fine-tuning on a GPU: tokens a second, share of the card's matrix rate, peak memory, beside the peers.

Model shapes with random weights, rows of random tokens of mixed lengths, of which a third is prompt. Every case is a
process of its own. What does not fit is said as such. One JSON is written, and a table printed for docs/performance.md.

  python perf/gpu.py --output outputs/gpu.json
  python perf/gpu.py --shapes llama-3.2-1b --lengths 2048 --methods lora qst
  python perf/gpu.py --small            # minutes on a CPU: shows that every case runs
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
                     "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
                     "tie_word_embeddings": True},
    "llama-3.2-3b": {"model_type": "llama", "vocab_size": 128256, "hidden_size": 3072, "intermediate_size": 8192,
                     "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128,
                     "tie_word_embeddings": True},
    "qwen2.5-1.5b": {"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960,
                     "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
                     "tie_word_embeddings": True},
    "qwen2.5-7b": {"model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
                   "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
                   "tie_word_embeddings": False},
    "small": {"model_type": "llama", "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
}  # fmt: skip
METHODS = ("lora", "qlora", "qst", "full", "dpo")
KINDS = ("ours", "packed", "plain", "trl", "liger")
"""ours: without padding; packed: rows filled to the length; plain: transformers' Trainer; trl: its SFTTrainer or
DPOTrainer; liger: trl with Liger's kernels."""
_TOKENS = 8192
"""Tokens of a step, at least a row."""
_WARM = 3


def main() -> None:
    """Run the cases, write one JSON, print the table."""
    options = _parse()
    if options.case:
        print("RESULT " + json.dumps(_run_case(json.loads(options.case))))
        return
    shared = {"steps": options.steps, "device": options.device, "tokens": options.tokens}
    results = [_run_process({**case, **shared}) for case in _list_cases(options)]
    facts = {"command": " ".join(sys.argv), **_describe(options.device), "cases": results}
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    _print_table(results)


def _list_cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    cases = []
    for shape in options.shapes:
        for length in options.lengths:
            for method in options.methods:
                for kind in options.kinds:
                    is_peer = kind in ("plain", "trl", "liger")
                    unknown = (is_peer and method == "qst") or (method == "dpo" and kind in ("packed", "plain"))
                    if not unknown:
                        cases.append({"shape": shape, "length": length, "method": method, "kind": kind})
    return cases


def _run_process(case: dict[str, Any]) -> dict[str, Any]:
    """Run a case in a process of its own; one that fails says why instead of figures."""
    words = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    line = next((each for each in done.stdout.splitlines() if each.startswith("RESULT ")), None)
    if done.returncode or line is None:
        error = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"{case['shape']} {case['length']} {case['method']} {case['kind']}: {error}", file=sys.stderr)
        return {**case, "error": error[:300]}
    result = {**case, **json.loads(line.removeprefix("RESULT "))}
    print(f"{case['shape']} {case['length']} {case['method']} {case['kind']}: {result['tokens_per_s']:.0f} tokens/s",
          file=sys.stderr)  # fmt: skip
    return result


def _run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Train a case for some steps; the first ones are not timed."""
    import torch
    from transformers import TrainerCallback

    from perf.limit import count_operations, list_products

    times: list[float] = []
    on_gpu = case["device"] == "cuda"

    class Clock(TrainerCallback):
        """Reads the clock after every step."""

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            """Note the time."""
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        rows, batch = _make_rows(case)
        trainer = _build(case, rows, batch, folder)
        trainer.add_callback(Clock())
        trainer.train()
    seconds = statistics.median(b - a for a, b in zip(times[_WARM - 1 : -1], times[_WARM:], strict=True))
    copies = 2 if case["method"] == "dpo" else 1  # of the prompt: a step holds both answers
    tokens = copies * sum(map(len, rows["input_ids"])) / len(times)
    targets = copies * sum(each != -100 for labels in rows["labels"] for each in labels) / len(times)
    products = list_products(trainer.model, round(tokens), round(targets), case["method"] != "qst")
    rate = _measure_rate(case["device"])
    return {
        "tokens_per_s": tokens / seconds,
        "step_s": seconds,
        "first_step_s": None if len(times) < 2 else times[0] - times[1] + 2 * seconds,
        "share_of_matrix_rate": count_operations(products) / seconds / rate,
        "peak_gb": torch.cuda.max_memory_allocated() / 1024**3 if on_gpu else _peak_rss(),
        "loss": next(log["loss"] for log in trainer.state.log_history if "loss" in log),
    }


def _make_rows(case: dict[str, Any]) -> tuple[Any, int]:
    """Draw rows of a quarter of the length to all of it, a third of them prompt; the rows of a step."""
    import torch
    from datasets import Dataset

    draw = torch.Generator().manual_seed(0)
    length, vocabulary = case["length"], SHAPES[case["shape"]]["vocab_size"]
    batch = max(1, case["tokens"] // length)
    rows = []
    for _ in range(batch * case["steps"]):
        size = int(torch.randint(max(length // 4, 4), length + 1, (), generator=draw))
        ids = torch.randint(1, vocabulary, (size,), generator=draw).tolist()
        prompt = size // 3
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return Dataset.from_list(rows), batch


def _build_model(case: dict[str, Any]) -> Any:
    """Build the base with random weights in bfloat16, quantized for qlora, and attach the method as train.py does."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    from utils.adapters.adapter import AttachContext, load_adapter

    torch.manual_seed(0)
    shape = {key: value for key, value in SHAPES[case["shape"]].items() if key != "model_type"}
    config = AutoConfig.for_model(SHAPES[case["shape"]]["model_type"], **shape, max_position_embeddings=32768)
    with torch.device(case["device"]):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if case["method"] == "qlora":
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                quantization_config=settings,
                dtype=torch.bfloat16,
                device_map={"": case["device"]},
                trust_remote_code=False,
            )
    method = {"qlora": "lora", "dpo": "lora", "full": "none"}.get(case["method"], case["method"])
    section = {"method": method} | ({"lora_r": 16, "target_modules": "all-linear"} if method == "lora" else {})
    plugin = load_adapter(method)
    context = AttachContext(
        task_type="CAUSAL_LM", has_new_head=False, seed=0, num_training_steps=case["steps"], num_epochs=1.0,
        device=case["device"], mixed_precision=True,
    )  # fmt: skip
    return plugin.attach(model, plugin.Config(**section), context)


def _build(case: dict[str, Any], rows: Any, batch: int, folder: str) -> Any:
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from utils.tasks.sft.building import pack_rows
    from utils.tasks.sft.trainer import CausalTrainer
    from utils.trainer.varlen_attention import require_separate_documents

    kind, method = case["kind"], case["method"]
    model = _build_model(case)
    if kind == "packed":
        packed = pack_rows(rows, case["length"])
        batch, rows = max(1, round(batch * len(packed) / len(rows))), packed
    shared = {
        "output_dir": folder, "per_device_train_batch_size": batch, "num_train_epochs": 1, "logging_steps": 1,
        "learning_rate": 1e-5, "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "train_sampling_strategy": "sequential", "bf16": True, "gradient_checkpointing": False,
        "use_cpu": case["device"] == "cpu",
    }  # fmt: skip
    if method == "dpo":
        trainer: Any = _build_dpo(case, model, rows, shared)
    elif kind == "plain":
        collate: Any = DataCollatorForSeq2Seq(_tokenizer(case))
        trainer = Trainer(model, TrainingArguments(**shared), collate, rows)
    else:
        flattened = kind in ("ours", "packed")
        if flattened:
            require_separate_documents(model)
        collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=flattened)
        own = {
            "max_length": None,
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "use_liger_kernel": kind == "liger",
        }
        trainer = (CausalTrainer if flattened else SFTTrainer)(
            model=model, args=SFTConfig(**shared, **own), data_collator=collate, train_dataset=rows,
            processing_class=_tokenizer(case),
        )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def _build_dpo(case: dict[str, Any], model: Any, rows: Any, shared: dict[str, Any]) -> Any:
    """Make pairs of which the rejected answer is the chosen one reversed."""
    from datasets import Dataset
    from transformers import TrainingArguments
    from trl import DPOConfig, DPOTrainer

    from utils.tasks.dpo.section import DpoSection
    from utils.tasks.dpo.trainer import DpoTrainer
    from utils.tasks.preference.batches import PreferenceCollator
    from utils.trainer.varlen_attention import require_separate_documents

    split = [(row["input_ids"][: len(row["input_ids"]) // 3], row["input_ids"][len(row["input_ids"]) // 3 :])
             for row in rows]  # fmt: skip
    if case["kind"] != "ours":
        pairs = [{"prompt_ids": p, "chosen_ids": a, "rejected_ids": a[::-1]} for p, a in split]
        DPOTrainer._prepare_dataset = lambda self, given, *_: given  # they are encoded
        arguments = DPOConfig(**shared, max_length=None, use_liger_kernel=case["kind"] == "liger")
        return DPOTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(pairs), processing_class=_tokenizer(case)
        )
    require_separate_documents(model)
    pairs = []
    for prompt, answer in split:
        masked, other = [-100] * len(prompt), answer[::-1]
        pairs.append({"input_ids": prompt + answer, "labels": masked + answer,
                      "rejected_input_ids": prompt + other, "rejected_labels": masked + other})  # fmt: skip
    return DpoTrainer(
        model=model,
        section=DpoSection(),
        args=TrainingArguments(**shared),
        train_dataset=Dataset.from_list(pairs),
        data_collator=PreferenceCollator(0, padding_free=True),
    )


def _tokenizer(case: dict[str, Any]) -> Any:
    """Make a tokenizer that trainers ask for and that encodes nothing here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"<{index}>": index for index in range(SHAPES[case["shape"]]["vocab_size"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<0>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<0>", eos_token="<0>", unk_token="<0>")


def _measure_rate(device: str) -> float:
    """Measure the operations a second of large products in bfloat16."""
    import torch

    from perf.limit import time_products

    size = 8192 if device == "cuda" else 1024
    return 2 * size**3 / time_products(Counter({(size, size, size): 1}), torch.bfloat16, device)


def _peak_rss() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def _describe(device: str) -> dict[str, Any]:
    from importlib import metadata

    import torch

    names = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "liger-kernel", "flash-attn")
    found = {each.metadata["Name"].lower(): each.version for each in metadata.distributions() if each.metadata["Name"]}
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"device": card, "versions": {name: found.get(name) for name in names}}


def _print_table(results: list[dict[str, Any]]) -> None:
    print(
        "| shape | length | method | kind | tokens/s | share of matrix rate | peak GB |\n|---|---|---|---|---|---|---|"
    )
    for each in results:
        head = f"| {each['shape']} | {each['length']} | {each['method']} | {each['kind']} |"
        if "error" in each:
            print(f"{head} {each['error'][:80]} | | |")
        else:
            print(f"{head} {each['tokens_per_s']:.0f} | {each['share_of_matrix_rate']:.0%} | {each['peak_gb']:.2f} |")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="outputs/gpu.json", metavar="FILE")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="one small shape on the CPU, two steps a case")
    parser.add_argument("--shapes", nargs="+", default=[each for each in SHAPES if each != "small"], choices=SHAPES)
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 2048, 8192])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--kinds", nargs="+", default=None, choices=KINDS)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=_TOKENS, help="of a step")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.small:
        options.shapes, options.lengths, options.device = ["small"], [32], "cpu"
        options.steps, options.tokens = _WARM + 2, 128
    if options.kinds is None:
        from importlib.util import find_spec

        options.kinds = [each for each in KINDS if each != "liger" or find_spec("liger_kernel")]
    return options


if __name__ == "__main__":
    main()
