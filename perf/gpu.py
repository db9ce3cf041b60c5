"""Measure fine-tuning on a GPU: tokens per second, model FLOPs utilization and peak memory, against other trainers.

Model shapes with random weights, rows of random tokens of mixed lengths, a third of each prompt. Every case runs in its
own process. What does not fit is reported. Writes one JSON file, and prints a table for docs/performance.md.

  python perf/gpu.py --output outputs/gpu.json
  python perf/gpu.py --shapes llama-3.2-1b --lengths 2048 --methods lora qst
  python perf/gpu.py --small            # minutes on a CPU: checks that every case runs
  python perf/gpu.py --device cpu --shapes pair --tokens 2048 --steps 2 --kinds ours plain trl   # memory, two layers
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

from perf.gpu_cases import SHAPES, build_trainer, make_rows
from perf.processes import give_result, read_result

METHODS = ("lora", "qlora", "qst", "full", "dpo")
KINDS = ("ours", "packed", "plain", "trl", "liger")
"""ours: without padding; packed: rows filled to the length; plain: transformers' Trainer; trl: its SFTTrainer or
DPOTrainer; liger: trl with Liger's kernels."""
_TOKENS = 8192
"""Tokens per step, at least one row."""
_WARM = 3


def main() -> None:
    """Run the cases, write one JSON file, and print the table."""
    options = _parse()
    if options.case:
        give_result(_run_case(json.loads(options.case)))
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
    """Run a case in its own process; if it fails, return the reason instead of figures."""
    words = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = read_result(done.stdout)
    if done.returncode or found is None:
        error = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"{case['shape']} {case['length']} {case['method']} {case['kind']}: {error}", file=sys.stderr)
        return {**case, "error": error[:300]}
    result = {**case, **found}
    print(f"{case['shape']} {case['length']} {case['method']} {case['kind']}: {result['tokens_per_s']:.0f} tokens/s",
          file=sys.stderr)  # fmt: skip
    return result


def _run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Train a case for some steps; the first steps are not timed."""
    from utils.core.logs import prepare_libraries

    if case["kind"] in ("ours", "packed"):  # as train.py does
        prepare_libraries()
    import torch
    from transformers import TrainerCallback

    from perf.limit import count_operations, list_products

    times: list[float] = []
    on_gpu = case["device"] == "cuda"

    class Clock(TrainerCallback):
        """Read the clock after every step."""

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            """Record the time."""
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        rows, batch = make_rows(case)
        trainer = build_trainer(case, rows, batch, folder)
        trainer.add_callback(Clock())
        trainer.train()
    warm = min(_WARM, len(times) - 1)
    seconds = statistics.median(b - a for a, b in zip(times[warm - 1 : -1], times[warm:], strict=True))
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


def _measure_rate(device: str) -> float:
    """Measure the operations per second of large matrix products in bfloat16."""
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
    parser.add_argument("--small", action="store_true", help="one small shape on the CPU, two steps per case")
    parser.add_argument("--shapes", nargs="+", default=[*SHAPES][:4], choices=SHAPES)
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 2048, 8192])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--kinds", nargs="+", default=None, choices=KINDS)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=_TOKENS, help="tokens per step")
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
