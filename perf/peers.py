r"""Measure other frameworks against train.py, each by its own command: first step, real tokens per second, memory.

All fine-tune the 26 M Llama shape of perf/sft.py (random weights, float32) on the same rows, with columns question and
answer: LoRA of rank 16 on all linear layers, batches of 8 rows truncated to 512 tokens, only answers trained on, a
constant learning rate. Each framework renders the rows with its own template, in its own environment, named by its
Python:

  python perf/peers.py --rows GSM8K/train.jsonl --tokenizer gpt2 --peers ours trl \
      llamafactory=/envs/lf/bin/python ms-swift=/envs/swift/bin/python litgpt=/envs/litgpt/bin/python

The frameworks alternate. The first step is timed from the start of the command to the end of that step; tokens per
second from there to the end of the last step. Memory is the largest resident size of the process.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from perf.command_line import make_parser
from perf.peer_clock import MARK

_CLOCK = [str(ROOT / "perf" / "peer_clock.py")]
_LENGTH = 512
_RANK, _ALPHA, _RATE = 16, 32, 1e-4
_LITGPT_STEP = "iter time:"
_LITGPT_MODEL = """
import sys, torch
from litgpt import GPT, Config
from litgpt.utils import save_config
from pathlib import Path
config = Config(name="small", block_size=2048, vocab_size={vocabulary}, padded_vocab_size={vocabulary}, n_layer=8,
                n_head=5, n_embd=320, n_query_groups=5, rotary_percentage=1.0, parallel_residual=False, bias=False,
                norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=864)
save_config(config, Path(sys.argv[1]))
torch.save(GPT(config).state_dict(), Path(sys.argv[1]) / "lit_model.pth")
"""


def main() -> None:
    """Run the frameworks, alternating, and print a table with the commands."""
    options = _parse()
    peers = dict(each.split("=", 1) if "=" in each else (each, sys.executable) for each in options.peers)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_inputs(folder, options, peers)
        commands = {name: COMMANDS[name](folder, options) for name in peers}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in peers}
        for _ in range(options.repeat):
            for name, python in peers.items():
                runs[name].append(_run_peer([python, *commands[name]], folder))
                print(name, runs[name][-1], file=sys.stderr)
        _print_table(runs)
        for name, command in commands.items():
            print(f"\n{name}: {shlex.join(command).replace(str(folder), 'F').replace(str(ROOT) + '/', '')}")


def _write_inputs(folder: Path, options: argparse.Namespace, peers: dict[str, str]) -> None:
    """Write the model with its tokenizer, and the rows in the formats that the frameworks read."""
    from transformers import AutoTokenizer

    from perf.small_llama import build_small_llama

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = folder / "model"
    build_small_llama(len(tokenizer)).unload().save_pretrained(model)
    tokenizer.save_pretrained(model)
    lines = Path(options.rows).read_text("utf-8").splitlines()[: options.steps * options.batch]
    rows = [(f"Question: {row['question']}\nAnswer:", f" {row['answer']}") for row in map(json.loads, lines)]
    roles = ("user", "assistant")
    forms: dict[str, list[dict[str, Any]]] = {
        "alpaca": [{"instruction": prompt, "input": "", "output": answer} for prompt, answer in rows],
        "completions": [{"prompt": prompt, "completion": answer} for prompt, answer in rows],
        "messages": [
            {"messages": [{"role": role, "content": text} for role, text in zip(roles, row, strict=True)]}
            for row in rows
        ],
    }  # fmt: skip
    for name, form in forms.items():
        part = folder / name
        part.mkdir()
        (part / "train.json").write_text(json.dumps(form), "utf-8")
        (part / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in form), "utf-8")
    (folder / "alpaca" / "val.json").write_text(json.dumps(forms["alpaca"][: options.batch]), "utf-8")
    (folder / "alpaca" / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "train.json"}}), "utf-8")
    if "litgpt" in peers:
        code = _LITGPT_MODEL.format(vocabulary=len(tokenizer))
        subprocess.run([peers["litgpt"], "-c", code, str(model)], check=True)


def _list_ours(folder: Path, options: argparse.Namespace) -> list[str]:
    config = {
        "task_type": "CAUSAL_LM",
        "model": {"name_or_path": str(folder / "model"), "dtype": "float32"},
        "peft": {"method": "lora", "lora_r": _RANK, "lora_alpha": _ALPHA, "target_modules": "all-linear"},
        "dataset": {"name": str(folder / "completions" / "train.jsonl")},
        "training": {
            "output_dir": str(folder / "ours"), "max_steps": options.steps, "learning_rate": _RATE, "logging_steps": 1,
            "per_device_train_batch_size": options.batch, "lr_scheduler_type": "constant", "bf16": options.bf16,
        },
        "sft": {"max_length": _LENGTH},
    }  # fmt: skip
    (folder / "ours.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return [*_CLOCK, str(ROOT / "train.py"), "--config", str(folder / "ours.yaml"), "--overwrite"]


def _list_trl(folder: Path, options: argparse.Namespace) -> list[str]:
    flags = {
        "model_name_or_path": folder / "model", "dtype": "float32", "dataset_name": folder / "completions",
        "use_peft": True, "lora_r": _RANK, "lora_alpha": _ALPHA, "lora_dropout": 0, "lora_target_modules": "all-linear",
        "max_length": _LENGTH, "output_dir": folder / "trl", "gradient_checkpointing": False, "dataset_num_proc": 1,
        **_list_trainer_flags(options),
    }  # fmt: skip
    return [*_CLOCK, "trl.scripts.sft", *_join_flags(flags)]


def _list_llamafactory(folder: Path, options: argparse.Namespace) -> list[str]:
    config = {
        "model_name_or_path": str(folder / "model"), "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "lora_rank": _RANK, "lora_alpha": _ALPHA, "lora_dropout": 0.0, "lora_target": "all", "template": "default",
        "dataset_dir": str(folder / "alpaca"), "dataset": "rows", "cutoff_len": _LENGTH, "overwrite_cache": True,
        "output_dir": str(folder / "llamafactory"), "overwrite_output_dir": True,
        "disable_gradient_checkpointing": True,
        **_list_trainer_flags(options),
    }  # fmt: skip
    (folder / "llamafactory.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return [*_CLOCK, "llamafactory.cli", "train", str(folder / "llamafactory.yaml")]


def _list_swift(folder: Path, options: argparse.Namespace) -> list[str]:
    flags = {
        "model": folder / "model", "model_type": "llama", "template": "default", "torch_dtype": "float32",
        "tuner_type": "lora", "lora_rank": _RANK, "lora_alpha": _ALPHA, "lora_dropout": 0,
        "target_modules": "all-linear", "dataset": folder / "messages" / "train.jsonl", "split_dataset_ratio": 0,
        "max_length": _LENGTH, "output_dir": folder / "swift", "gradient_checkpointing": False,
        "dataloader_num_workers": 0, "use_hf": True, **_list_trainer_flags(options),
    }  # fmt: skip
    return [*_CLOCK, "swift.cli.sft", *_join_flags(flags)]


def _list_litgpt(folder: Path, options: argparse.Namespace) -> list[str]:
    lora = {f"lora_{part}": True for part in ("query", "key", "value", "projection", "mlp")}
    flags = {
        "data": "JSON", "data.json_path": folder / "alpaca", "data.mask_prompt": True, "data.num_workers": 0,
        "precision": "bf16-mixed" if options.bf16 else "32-true", "out_dir": folder / "litgpt", "lora_r": _RANK,
        "lora_alpha": _ALPHA, "lora_dropout": 0, **lora, "train.global_batch_size": options.batch,
        "train.micro_batch_size": options.batch, "train.max_steps": options.steps, "train.max_seq_length": _LENGTH,
        "train.lr_warmup_steps": 1, "train.epochs": 2, "eval.interval": 1000, "eval.final_validation": False,
    }  # fmt: skip
    return ["-m", "litgpt", "finetune_lora", str(folder / "model"), *_join_flags(flags)]


def _list_trainer_flags(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "max_steps": options.steps, "per_device_train_batch_size": options.batch, "gradient_accumulation_steps": 1,
        "learning_rate": _RATE, "lr_scheduler_type": "constant", "warmup_steps": 0, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "bf16": options.bf16,
    }  # fmt: skip


def _join_flags(flags: dict[str, Any]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


COMMANDS: dict[str, Callable[[Path, argparse.Namespace], list[str]]] = {
    "ours": _list_ours,
    "trl": _list_trl,
    "llamafactory": _list_llamafactory,
    "ms-swift": _list_swift,
    "litgpt": _list_litgpt,
}


def _run_peer(command: list[str], folder: Path) -> dict[str, float]:
    """Run a command, record when its steps end, and read its memory."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=folder
    )
    assert process.stdout is not None, "a pipe"
    ends, tokens, lines = [], [], []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(MARK) or _LITGPT_STEP in line:
            ends.append(time.perf_counter())
        if line.startswith(MARK):
            tokens.append(int(line.removeprefix(MARK)))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or len(ends) < 2:
        raise SystemExit(f"{shlex.join(command)}: exit code {process.returncode}\n{''.join(lines)[-3000:]}")
    tokens = tokens or _read_litgpt_tokens(folder / "litgpt")
    return {
        "tokens_per_s": sum(tokens[1:]) / (ends[-1] - ends[0]),
        "tokens_a_step": statistics.mean(tokens),
        "first_step_s": ends[0] - started,
        "whole_s": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss / 1024**2,
    }


def _read_litgpt_tokens(folder: Path) -> list[int]:
    """Parse the real tokens of each step from litgpt's log, which prints running totals."""
    path = max(folder.rglob("metrics.csv"), key=lambda each: each.stat().st_mtime)
    with path.open(encoding="utf-8") as file:
        sums = [int(float(row["tokens"])) for row in csv.DictReader(file) if row.get("tokens")]
    return [after - before for before, after in zip([0, *sums], sums, strict=False)]


def _print_table(runs: dict[str, list[dict[str, float]]]) -> None:
    print("| | tokens/s | tokens a step | first step, s | whole command, s | CPU, s | peak, GB |")
    print("|---|---|---|---|---|---|---|")
    for name, results in runs.items():
        middle = {key: statistics.median(each[key] for each in results) for key in results[0]}
        print(
            f"| {name} | {middle['tokens_per_s']:,.0f} | {middle['tokens_a_step']:,.0f} | {middle['first_step_s']:.1f} "
            f"| {middle['whole_s']:.1f} | {middle['cpu_s']:.0f} | {middle['peak_gb']:.2f} |"
        )


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="mixed precision for all frameworks")
    parser.add_argument("--peers", nargs="+", default=["ours", "trl"], metavar="NAME[=PYTHON]")
    options = parser.parse_args()
    if unknown := [each for each in options.peers if each.partition("=")[0] not in COMMANDS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(COMMANDS)}")
    return options


if __name__ == "__main__":
    main()
