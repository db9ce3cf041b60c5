"""Measure the speed of generation: continuous batching against static batches.

Prompts are GSM8K's questions, with `--shots N` after N examples from the training rows; greedy answers end with the
model's end token or at `Question:`. Both kinds alternate in one process; CPU seconds, which other work on the machine
does not affect, and seconds are printed, with the number of answers that differ.

  python perf/generation.py --model merged/quickstart_sft --rows $LORA_NS_REAL_DATA/gsm8k --num 400 --shots 4
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))


def main() -> None:
    """Measure both kinds, alternating."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=Path, required=True, help="a folder with train.jsonl and test.jsonl")
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, help="pad each MLP with zeros to this many neurons: more work")
    options = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from utils.config.sections.generation import GenerationSection
    from utils.generation.backends.transformers import Backend

    torch.set_num_threads(options.threads)
    model: Any = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32, trust_remote_code=False
    ).eval()
    if options.width:
        _widen(model, options.width)
    tokenizer = AutoTokenizer.from_pretrained(options.model, trust_remote_code=False)
    section = GenerationSection(max_new_tokens=options.max_new_tokens)
    kinds = {"to_their_end": False, "filled_up": True}
    backend = Backend(model, tokenizer, section, ("Question:",))
    texts = _read(options.rows, options.num, options.shots)
    prompts = [ids for text in texts if not backend.explain_refusal(len(ids := tokenizer(text)["input_ids"]) + 64)]
    found: dict[str, Any] = {kind: {"cpu_s": [], "s": []} for kind in kinds}
    answers: dict[str, dict[int, Any]] = {}
    for _ in range(options.repeat):
        for kind, refills in kinds.items():
            backend._refills = refills
            cpu, start = time.process_time(), time.perf_counter()
            answers[kind] = dict(
                pair for batch in backend.plan_batches(prompts) for pair in backend.generate_batch(prompts, batch)
            )
            found[kind]["cpu_s"].append(round(time.process_time() - cpu, 2))
            found[kind]["s"].append(round(time.perf_counter() - start, 2))
    one, other = answers.values()
    facts = {
        "parameters": sum(each.numel() for each in model.parameters()),
        "prompts": len(prompts),
        "prompt_tokens": sum(map(len, prompts)),
        "tokens": sum(each.num_tokens for each in other.values()),
        "ended": sum(each.finished for each in other.values()),
        "differ": sum(one[row] != other[row] for row in one),
    }
    ratio = [statistics.median(found[kind]["cpu_s"]) for kind in kinds]
    print(json.dumps({**facts, **found, "times_as_fast": round(ratio[0] / ratio[1], 2)}, indent=1))


def _read(folder: Path, num: int, shots: int) -> list[str]:
    rows = {name: [json.loads(line) for line in (folder / f"{name}.jsonl").open()] for name in ("train", "test")}
    head = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in rows["train"][:shots])
    return [f"{head}Question: {row['question']}\nAnswer:" for row in rows["test"][:num]]


def _widen(model: Any, width: int) -> None:
    import torch

    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            old = getattr(layer.mlp, name).weight.data
            shape = (old.shape[0], width) if name == "down_proj" else (width, old.shape[1])
            new = torch.nn.Linear(shape[1], shape[0], bias=False)
            new.weight.data.zero_()
            new.weight.data[: old.shape[0], : old.shape[1]] = old
            setattr(layer.mlp, name, new)


if __name__ == "__main__":
    main()
