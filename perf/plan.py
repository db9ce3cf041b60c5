"""Compare the memory that `train.py --plan` predicts with the peak resident memory of the run.

Each shape has random weights and is trained for three steps on the CPU, in its own process. The memory of Python, torch
and the libraries is measured once, by a run of the smallest model, and added to every plan. glibc keeps freed memory,
up to half as much again with large batches; MALLOC_MMAP_THRESHOLD_ makes it return large tensors, so that only tensors
are measured. `--allocator` measures without it.

  python perf/plan.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BASE = ROOT / "examples" / "quickstart" / "base"
SFT, CLASSIFY = "quickstart_sft", "quickstart"
LLAMA = {"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096}
SHAPES: list[tuple[str, str, dict[str, Any], list[str]]] = [
    ("smallest", SFT, {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}, ["peft.lora_r=1"]),
    ("lora 512 x 8", SFT, {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}, []),
    ("lora, 4 rows", SFT, {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8},
     ["training.per_device_train_batch_size=4"]),
    ("lora, checkpointing", SFT, {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8},
     ["training.per_device_train_batch_size=4", "training.gradient_checkpointing=true"]),
    ("lora, vocabulary 152 k", SFT,
     {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "vocab_size": 152_000}, []),
    ("full", SFT, {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}, ["peft.method=none"]),
    ("full, sgd", SFT, {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12},
     ["peft.method=none", "training.optim=sgd"]),
    ("qst", SFT, {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}, ["peft.method=qst"]),
    ("prefix-tuning", SFT, {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8},
     ["peft.method=prefix-tuning", "sft.packing=false"]),
    ("lora, bfloat16 base", SFT, {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12},
     ["model.dtype=bfloat16"]),
    ("classifier, lora", CLASSIFY, {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12},
     ["training.per_device_train_batch_size=64"]),
]  # fmt: skip


def main() -> None:
    """Print a line for each shape."""
    if "--allocator" not in sys.argv:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    floor = 0.0
    print(f"{'shape':<24}{'planned':>9}{'measured':>10}{'difference':>12}   GB")
    with tempfile.TemporaryDirectory() as folder:
        for name, file, shape, words in SHAPES:
            base = _make_base(Path(folder, "base"), {**LLAMA, "vocab_size": 32_000, **shape})
            keeps = ["training.save_strategy=no", "training.eval_strategy=no", "dataset.max_eval_samples=8"]
            long = ["sft.packing=true", "sft.max_length=1024", "evaluation.at_end=false"] if file == SFT else []
            size = ["training.per_device_train_batch_size=1"] if file == SFT else []
            common = [
                f"model.name_or_path={base}",
                "training.max_steps=3",
                "training.report_to=none",
                *keeps,
                *long,
                *size,
            ]
            run = Path(folder, "run")
            common += [f"training.output_dir={run}"]
            planned = _call(file, [*common, *words, "--plan"])["memory_gb"]["total"]
            measured = _call(file, [*common, *words, "--overwrite"])["memory"]["peak_rss_gb"]
            floor = floor or measured - planned
            whole = floor + planned
            print(f"{name:<24}{whole:>9.2f}{measured:>10.2f}{100 * (whole / measured - 1):>11.0f}%", flush=True)


def _make_base(folder: Path, shape: dict[str, Any]) -> Path:
    """Save a model with random weights and the embedded base's tokenizer."""
    script = (
        "import sys, json; from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer\n"
        "shape = json.loads(sys.argv[1]); config = AutoConfig.for_model(shape.pop('model_type'), **shape)\n"
        "AutoTokenizer.from_pretrained(sys.argv[2]).save_pretrained(sys.argv[3])\n"
        "AutoModelForCausalLM.from_config(config).save_pretrained(sys.argv[3])"
    )
    subprocess.run([sys.executable, "-c", script, json.dumps(shape), str(BASE), str(folder)], check=True)
    return folder


def _call(file: str, words: list[str]) -> dict[str, Any]:
    command = [sys.executable, "train.py", "--config", f"configs/{file}.yaml", "--json", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    main()
