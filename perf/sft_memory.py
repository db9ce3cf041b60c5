"""Measure the memory of one training step and one evaluation with a large vocabulary and a long row.

The loss from full logits (the model's own, as in transformers.Trainer) against ours at trained positions, in separate
processes: the peak of resident memory during the step, minus the memory before it. A Llama shape with random weights,
LoRA on its linear layers, float32.

  python perf/sft_memory.py
  python perf/sft_memory.py --vocabulary 32000 --length 2048 --trained 0.3
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from perf.processes import give_result, run_process


def main() -> None:
    """Run every kind in its own process and print one JSON object."""
    options = _parse()
    if options.kind:
        give_result(_measure(options))
        return
    answer: dict[str, Any] = {"vocabulary": options.vocabulary, "length": options.length, "trained": options.trained}
    for kind in ("whole", "ours"):
        for mode in ("training", "evaluation"):
            answer[f"{kind}_{mode}"] = run_process([*sys.argv, "--kind", kind, "--mode", mode])
    for mode in ("training", "evaluation"):
        ratio = answer[f"whole_{mode}"]["peak_gb"] / max(answer[f"ours_{mode}"]["peak_gb"], 1e-3)
        answer[f"whole_over_ours_{mode}"] = round(ratio, 1)
    print(json.dumps(answer, indent=1))


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from utils.trainer.trained_head import install_trained_head

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options.vocabulary, hidden_size=256, intermediate_size=688, num_hidden_layers=2,
        num_attention_heads=4, tie_word_embeddings=True, max_position_embeddings=options.length,
    )  # fmt: skip
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(config), lora).train(options.mode == "training")
    install_trained_head(model)
    ids = torch.randint(0, options.vocabulary, (1, options.length))
    labels = ids.clone()
    labels[:, : int(options.length * (1 - options.trained))] = -100
    with _Peak() as peak, torch.set_grad_enabled(options.mode == "training"):
        started = time.perf_counter()
        output = model(input_ids=ids, labels=labels, **({"trained_positions": True} if options.kind == "ours" else {}))
        loss = output.loss / (output.num_targets if options.kind == "ours" else 1)
        if options.mode == "training":
            loss.backward()
        seconds = time.perf_counter() - started
    return {"peak_gb": round(peak.gib, 3), "seconds": round(seconds, 2), "loss": round(float(loss), 5)}


class _Peak:
    """Context manager that measures peak resident memory relative to its start."""

    gib = 0.0

    def __enter__(self) -> _Peak:
        import psutil

        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self._open = True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._open = False
        self._thread.join()

    def _watch(self) -> None:
        while self._open:
            self.gib = max(self.gib, (self._process.memory_info().rss - self._before) / 1024**3)
            time.sleep(0.002)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--trained", type=float, default=1.0, help="fraction of positions that are trained on")
    parser.add_argument("--kind", choices=("whole", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=("training", "evaluation"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
