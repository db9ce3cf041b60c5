"""Measure QST with and without its backbone cache against LoRA: seconds per step and epoch, and peak memory.

A sequence classifier of the shape of Llama-3.2-1B with random weights; every kind has the same backbone, rows and
optimizer. Steps and epochs of the kinds alternate in one process, and medians are printed; peak memory is that of
separate processes on a CPU, and CUDA's own count on a GPU.

  python perf/qst.py
  python perf/qst.py --json --autocast
  python perf/qst.py --device cuda --quantization nf4 --batch_size 8
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from perf.processes import give_result, run_process

KINDS = ("lora", "lora_checkpointed", "qst", "qst_cached", "qst_cached_int8")
LORA = {"method": "lora", "lora_r": 16, "target_modules": "all-linear"}
SHAPE: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
}  # fmt: skip


def main() -> None:
    """Measure and print."""
    options = _parse()
    if options.memory_of:
        give_result(_measure_memory(options))
        return
    answer = _measure_times(options)
    if options.device == "cpu" and not options.no_memory:
        answer["peak_rss_gb"] = {kind: _measure_peak(kind) for kind in ("backbone", *options.kinds)}
    if options.json:
        print(json.dumps(answer, indent=2))
        return
    for key, value in answer.items():
        print(f"{key:40} {value:.3f}" if isinstance(value, float) else f"{key:40} {value}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--quantization", choices=["nf4", "int8"], help="quantization of the backbone; default: none, bfloat16"
    )
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--length", type=int, default=128, help="tokens per row")
    parser.add_argument("--steps", type=int, default=4, help="steps per epoch")
    parser.add_argument("--repeat", type=int, default=3, help="rounds in which the kinds alternate")
    parser.add_argument("--layers", type=int, default=16, help="layers of the backbone; 16 is Llama-3.2-1B")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument(
        "--autocast", action="store_true", help="as with training.bf16; default: the backbone's bfloat16"
    )
    parser.add_argument("--no-memory", action="store_true", help="skip the memory measurement")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure_times(options: argparse.Namespace) -> dict[str, Any]:
    models = _build_models(options)
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    for turn in range(options.repeat + 1):  # the first round warms up
        for kind, model in models.items():
            _reset_peak(options)
            times, epoch = _train_epoch(model, options, seed=turn if "cached" not in kind else 0)
            if kind.startswith("qst_cached") and not turn:
                seconds[f"{kind}_first_epoch"] = [epoch]
            elif turn:
                seconds.setdefault(f"{kind}_epoch", []).append(epoch)
                seconds.setdefault(f"{kind}_step", []).extend(times)
            peaks[kind] = max(peaks.get(kind, 0.0), _read_peak(options))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    answer: dict[str, Any] = _compare(medians)
    answer |= {f"{name}_s": value for name, value in medians.items()}
    answer |= {"qst_bytes_per_token_cached": _bytes_per_token(models)}
    if options.device == "cuda":
        answer["peak_vram_gb"] = peaks
    return answer


def _compare(medians: dict[str, float]) -> dict[str, float]:
    """Return the ratios; five cached epochs are one that stores and four that do not."""
    ratios = {}
    qst, cached = medians.get("qst_epoch"), medians.get("qst_cached_epoch")
    for kind in ("lora", "lora_checkpointed"):
        if qst and f"{kind}_step" in medians:
            ratios[f"{kind}_over_qst"] = medians[f"{kind}_step"] / medians["qst_step"]
    if qst and cached:
        ratios["uncached_over_cached_step"] = medians["qst_step"] / medians["qst_cached_step"]
        ratios["uncached_over_cached_epoch"] = qst / cached
        five = medians["qst_cached_first_epoch"] + 4 * cached
        ratios["five_epochs_uncached_over_cached"] = 5 * qst / five
    return ratios


def _build_models(options: argparse.Namespace) -> dict[str, Any]:
    """Build all kinds on one backbone, so that only trained parameters exist more than once."""
    base = _build_backbone(options)
    shared = {id(each): each for each in (*base.parameters(), *base.buffers())}
    return {kind: _attach(copy.deepcopy(base, dict(shared)), kind, options) for kind in options.kinds}


def _build_backbone(options: argparse.Namespace) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    torch.manual_seed(0)
    shape = {**SHAPE, "num_hidden_layers": options.layers}
    config = LlamaConfig(**shape, num_labels=2, pad_token_id=0, dtype="bfloat16")
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(options.device):
        model = AutoModelForSequenceClassification.from_config(config)
    torch.set_default_dtype(torch.float32)
    return _quantize(model, options) if options.quantization else model


def _quantize(model: Any, options: argparse.Namespace) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    four = options.quantization == "nf4"
    settings = BitsAndBytesConfig(
        load_in_4bit=four, load_in_8bit=not four, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=["score"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        _empty(options)
        return AutoModelForSequenceClassification.from_pretrained(
            folder,
            quantization_config=settings,
            dtype=torch.bfloat16,
            device_map={"": options.device},
            trust_remote_code=False,
        )


def _attach(model: Any, kind: str, options: argparse.Namespace) -> Any:
    """Attach a kind as train.py does."""
    import torch

    from utils.adapters.adapter import AttachContext, load_adapter

    torch.manual_seed(1)
    section: dict[str, Any] = dict(LORA) if kind.startswith("lora") else {"method": "qst"}
    if kind.startswith("qst_cached"):
        section["cache"] = {"where": "ram", "dtype": "int8" if kind.endswith("int8") else "auto"}
    plugin = load_adapter(str(section["method"]))
    context = AttachContext(
        task_type="SEQ_CLS", has_new_head=True, seed=0, num_epochs=5.0, mixed_precision=options.autocast
    )
    adapted: Any = plugin.attach(model, plugin.Config(**section), context)
    if kind == "lora_checkpointed":
        adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        adapted.enable_input_require_grads()
    trained = [each for each in adapted.parameters() if each.requires_grad]
    adapted.perf_optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)  # transformers' default
    return adapted.train()


def _batches(options: argparse.Namespace, seed: int) -> Iterator[dict[str, Any]]:
    import torch

    draw = torch.Generator().manual_seed(seed)
    for _ in range(options.steps):
        ids = torch.randint(1, SHAPE["vocab_size"], (options.batch_size, options.length), generator=draw)
        labels = torch.randint(0, 2, (options.batch_size,), generator=draw)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        yield {key: value.to(options.device) for key, value in batch.items()}


def _train_epoch(model: Any, options: argparse.Namespace, seed: int) -> tuple[list[float], float]:
    """Train an epoch; return the seconds of each step and of the epoch."""
    import torch

    times = []
    started = time.perf_counter()
    for batch in _batches(options, seed):
        began = time.perf_counter()
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.autocast):
            loss = model(**batch).loss
        loss.backward()
        model.perf_optimizer.step()
        model.perf_optimizer.zero_grad()
        if options.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times, time.perf_counter() - started


def _bytes_per_token(models: dict[str, Any]) -> dict[str, float]:
    found = {}
    for kind, model in models.items():
        replay = model.base_model.__dict__.get("_replay") if kind.startswith("qst_cached") else None
        if replay is not None and replay.store is not None:
            num_tokens = replay.counts.num_tokens - replay.counts.num_tokens_replayed
            found[kind] = replay.store.num_bytes / max(num_tokens, 1)
    return found


def _measure_peak(kind: str) -> float:
    words = [word for word in sys.argv[1:] if word != "--json"]
    return float(run_process([__file__, *words, "--memory-of", kind])["peak_gb"])


def _measure_memory(options: argparse.Namespace) -> dict[str, float]:
    """Return this process's peak over three steps; for the backbone alone, after loading."""
    import torch

    options.steps = 3
    base = _build_backbone(options)
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # forget the peak of drawing random weights (Linux)
    if options.memory_of == "backbone":
        with torch.no_grad():
            base.eval()(**next(_batches(options, 0)))
    else:
        _train_epoch(_attach(base, options.memory_of, options), options, 0)
    status = Path("/proc/self/status").read_text("utf-8")
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return {"peak_gb": int(peak) / 2**20}


def _empty(options: argparse.Namespace) -> None:
    import torch

    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()


def _reset_peak(options: argparse.Namespace) -> None:
    import torch

    if options.device == "cuda":
        _empty(options)
        torch.cuda.reset_peak_memory_stats()


def _read_peak(options: argparse.Namespace) -> float:
    """Return CUDA's peak in GB, including a few MB of the other kinds' parameters and optimizer states."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if options.device == "cuda" else 0.0


if __name__ == "__main__":
    main()
