"""Measure how close fine-tuning comes to the machine's limit: its matrix products at the model's own shapes.

Every product of a step follows from the model's shapes, the step's tokens and its trained positions: forward, backward
of activations, gradients of trained parameters, the head. Each is timed separately; their sum is a lower bound for a
step, whose share of the step's time is printed, with where the rest goes.

  python perf/limit.py --rows $LORA_NS_REAL_DATA/gsm8k/train.jsonl --tokenizer $LORA_NS_REAL_DATA/tokenizers/gpt2
  python perf/limit.py --rows FILE --tokenizer FOLDER --kinds ours packed bf16 --steps 12
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from perf.command_line import make_parser

Product = tuple[int, int, int]
"""Rows, inner size, columns of a matrix product: 2 * rows * inner * columns operations."""
_GROUPS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("scaled_dot_product",),
    "softmax and loss": ("softmax", "amax", "gather", "scatter", "nll", "logsumexp"),
    "copies": ("copy_", "cat", "index", "fill_", "zero_", "empty", "clone"),
    "optimizer": ("Optimizer",),
}
"""Categories of operations by parts of their names, in order of precedence; all others are elementwise."""
_REPEATS = 7


def list_products(model: Any, tokens: int, targets: int, passes_gradient: bool = True) -> Counter[Product]:
    """Count the matrix products of one training step by shape.

    Args:
        model: A causal language model with its adapter; quantized layers count by their unquantized sizes.
        tokens: Tokens of the step, without padding.
        targets: Positions that are trained on, which alone need the head.
        passes_gradient: Whether gradients flow through the frozen layers, as they do except in side tuning.
    """
    counts: Counter[Product] = Counter()
    head = model.get_output_embeddings()
    for module in model.modules():
        if not hasattr(module, "in_features") or hasattr(module, "base_layer"):
            continue
        rows, inner, outer = targets if module is head else tokens, module.in_features, module.out_features
        counts[rows, inner, outer] += 1
        if passes_gradient or module is head or module.weight.requires_grad:
            counts[rows, outer, inner] += 1
        if module.weight.requires_grad:
            counts[outer, rows, inner] += 1
    return counts


def count_operations(products: Counter[Product]) -> int:
    """Count the floating-point operations of products."""
    return sum(2 * rows * inner * outer * times for (rows, inner, outer), times in products.items())


def time_products(products: Counter[Product], dtype: Any, device: str = "cpu") -> float:
    """Measure the seconds that the products take alone, each as the median of several runs."""
    return sum(times * _time_product(product, dtype, device) for product, times in products.items())


def _time_product(product: Product, dtype: Any, device: str) -> float:
    import torch

    rows, inner, outer = product
    left = torch.randn(rows, inner, dtype=dtype, device=device)
    right = torch.randn(outer, inner, dtype=dtype, device=device).t()  # in the layout of a layer's weight
    place = torch.empty(rows, outer, dtype=dtype, device=device)
    seconds = []
    for _ in range(_REPEATS):
        start = _now(device)
        torch.mm(left, right, out=place)
        seconds.append(_now(device) - start)
    return statistics.median(seconds[1:])


def _now(device: str) -> float:
    import torch

    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def main() -> None:
    """Print each kind's tokens per second, the limit, the ratio, and where the time goes."""
    from utils.core.logs import prepare_libraries

    options = _parse()
    prepare_libraries()  # as train.py does
    for kind in options.kinds:
        _measure(kind, options)


def _measure(kind: str, options: argparse.Namespace) -> None:
    import torch
    from transformers import AutoTokenizer, TrainerCallback

    from perf import sft

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    options.kind = kind
    rows = sft.encode_rows(options, tokenizer)
    times: list[float] = []
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])

    class Clock(TrainerCallback):
        """Read the clock after every step; the last step is profiled and not timed."""

        def on_step_begin(self, args: Any, state: Any, *_: Any, **kwargs: Any) -> None:
            """Profile the last step."""
            if state.global_step == state.max_steps - 1:
                profiler.start()

        def on_step_end(self, args: Any, state: Any, *_: Any, **kwargs: Any) -> None:
            """Record the time."""
            times.append(time.perf_counter())
            if state.global_step == state.max_steps:
                profiler.stop()

    with tempfile.TemporaryDirectory() as folder:
        trainer = sft.build_trainer(options, rows, tokenizer, folder)
        trainer.add_callback(Clock())
        trainer.train()
        steps = len(times)
        tokens = round(sum(rows["length"]) / steps)
        targets = round(sum(label != -100 for labels in rows["labels"] for label in labels) / steps)
    seconds = statistics.median(after - before for before, after in pairwise(times[:-1]))
    products = list_products(trainer.model, tokens, targets)
    least = time_products(products, torch.bfloat16 if kind == "bf16" else torch.float32)
    operations = count_operations(products)
    print(
        f"{kind}: {tokens / seconds:.0f} tokens/s ({operations / tokens / 1e6:.0f} MFLOP a token), its products alone "
        f"{tokens / least:.0f} ({operations / least / 1e9:.0f} GFLOP/s): {least / seconds:.0%} of the limit"
    )
    _print_shares(profiler)


def _print_shares(profiler: Any) -> None:
    groups: Counter[str] = Counter()
    for event in profiler.key_averages():
        groups[_group(event.key)] += event.self_cpu_time_total
    total = sum(groups.values())
    print("  " + ", ".join(f"{name} {share / total:.0%}" for name, share in groups.most_common()))


def _group(name: str) -> str:
    return next((group for group, parts in _GROUPS.items() if any(part in name for part in parts)), "elementwise")


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--kinds", nargs="+", default=["ours", "packed", "bf16"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
