"""Every command in a shell block of the documentation is run here, or listed with what it needs.

Commands that are not run are checked as far as possible: flags, file and overrides, the plan of a suite. The slow test
runs all others unchanged, in a folder like a clone.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from utils.cli.parser import parse_words
from utils.run_config import load_run_config

ROOT = Path(__file__).parents[2]
PAGES = [page for folder in (".", "docs", "examples") for page in sorted((ROOT / folder).rglob("*.md"))
         if folder != "." or page.parent == ROOT]  # fmt: skip
SCRIPTS = ("train", "inference", "evaluate_model", "merge_adapter", "validate_config", "benchmark")
BLOCK = re.compile(r"^ *```(?:bash|sh)\n(.*?)^ *```\s*$", re.MULTILINE | re.DOTALL)

HUB = "models or rows of the hub"
GPU = "GPUs; tests/commands/test_processes.py runs two processes on CPUs"
SERVER = "a server; tests/commands/test_server.py"
NOT_RUN = {
    r"make (setup|quickstart|test|test-all|check|coverage|site)\b.*": "the environment anew; CI runs them",
    r"source \.venv/bin/activate": "an environment; each command here is called in one",
    r"make (docs|format|matrix)": "rewrites files of the clone; tests/contracts compares docs and matrix",
    r"(lora-ns|accelerate launch -m lora_ns) .*": "the package installed; tests/commands/test_installed.py",
    r"(torchrun|accelerate launch) .*": GPU,
    r"python train.py .* --gpu 0,1": GPU,
    r"examples/train_multi_gpu.sh .*": GPU,
    r"sbatch .*": "Slurm; tests/commands/test_slurm.py",
    r"python benchmark.py .* --launcher slurm": "Slurm; tests/commands/test_slurm.py",
    r"python (inference|evaluate_model).py .* --server .*": SERVER,
    r"(vllm serve|vllm_env/bin/pip|python -m venv vllm_env|LORA_NS_VLLM_PYTHON=).*": SERVER,
    r"(ollama|llama-cli) .*": "Ollama, llama.cpp; LORA_NS_LLAMA_CPP in tests/unit/merging/test_gguf.py",
    r"(lm_eval |LORA_NS_LM_EVAL=|python -m venv lm_eval_env).*": "lm_eval; tests/unit/metrics/test_against_lm_eval.py",
    r"python train.py --config configs/(glue|gsm8k|metamath|longbench|dpo_ultra|grpo_gsm8k).*": HUB,
    r"python benchmark.py --config configs/benchmarks/glue\S+(?!.*(--dry-run|--launcher)).*": HUB,
    r"python evaluate_model.py .*--set (gsm8k|qmsum|humaneval).*": HUB,
    r"python \w+.py --run hub:.*": HUB,
    r"cat lines.txt \| python inference.py --model Qwen/.*": HUB,
    r"python perf/.*|.* model.name_or_path=TinyStories.*": "real rows and quiet minutes",
    r"tensorboard .*": "a page that is served until it is ended; tests/commands/test_trackers.py",
    r"python examples/quickstart/make_quickstart.py": "rewrites files of the clone; tests/unit/data compares its rows",
}
"""Requirements of commands that cannot be run here."""


def _read_commands() -> dict[str, str]:
    """Return each command with the first page that shows it."""
    found: dict[str, str] = {}
    for page in PAGES:
        for block in BLOCK.findall(re.sub(r"\\\n\s*", "", page.read_text("utf-8"))):
            for line in block.splitlines():
                words = re.split(r"\s+#", line)[0].strip()
                if words and not words.startswith("("):  # a remark
                    found.setdefault(words, str(page.relative_to(ROOT)))
    return found


COMMANDS = _read_commands()


def _find_need(words: str) -> str | None:
    return next((need for pattern, need in NOT_RUN.items() if re.fullmatch(pattern, words)), None)


RUN = [words for words in COMMANDS if _find_need(words) is None]


def test_the_pages_hold_commands_and_the_list_no_unused_line() -> None:
    assert len(RUN) > 20
    scripts = {script for script in SCRIPTS for words in RUN if f"python {script}.py" in words}
    assert scripts == set(SCRIPTS)
    idle = [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, words) for words in COMMANDS)]
    assert not idle


def _split(words: str) -> tuple[str, list[str]] | None:
    """Return a command's script and its arguments, if it is one of ours."""
    found = re.search(
        rf"\b({'|'.join(SCRIPTS)})\.py (.*)", re.split(r" [|>] ", words.replace("cat lines.txt | ", ""))[0]
    )
    return (found[1], shlex.split(found[2])) if found else None


def test_commands_that_are_not_run_can_be_parsed() -> None:
    ours = [found for words in COMMANDS if words not in RUN and (found := _split(words))]
    assert len(ours) > 25
    for script, words in ours:
        arguments = parse_words(importlib.import_module(script).build(), words)
        if script == "train":
            load_run_config(ROOT / arguments.config, arguments.overrides, files=False)
        elif script == "benchmark":
            from utils.benchmark.search import plan_suite
            from utils.benchmark.suite_reader import read_suite

            choices = importlib.import_module(script)._read_choices(arguments)
            assert plan_suite(read_suite(arguments.config, arguments.launcher), choices).runs


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder like a clone, with the runs and files that the commands name."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("utils", "configs", "examples", *(f"{script}.py" for script in SCRIPTS)):
        (folder / name).symlink_to(ROOT / name)
    sft = "python train.py --config configs/quickstart_sft.yaml training.max_steps=40 peft.lora_r=4"
    assert sft in RUN, "a page shows the run that other commands use"
    for words in (sft, f"{sft} training.output_dir=outputs/gsm8k"):
        _run(folder, words)
    _run(folder, "python train.py --config configs/quickstart.yaml training.report_to=none training.max_steps=20")
    (folder / "questions.csv").write_text("question\nTom has 4 apples and buys 3 more. How many?\n")
    pairs = (ROOT / "examples/quickstart/preference/validation.jsonl").read_text("utf-8").splitlines(keepends=True)
    for name in ("pairs.jsonl", "rows.jsonl"):
        (folder / name).write_text("".join(pairs[:4]))
    (folder / "mine.jsonl").write_text('{"prediction": "$\\\\boxed{4}$", "reference": "\\\\boxed{4}"}\n')
    (folder / "answers.jsonl").write_text('{"response": "\\\\boxed{4}", "gold": "\\\\boxed{4}", "level": 1}\n')
    (folder / "pred" / "my-model").mkdir(parents=True)
    row = '{"pred": "Paris", "answers": ["Paris"], "all_classes": null, "length": 10}\n'
    (folder / "pred" / "my-model" / "hotpotqa.jsonl").write_text(row)
    return folder


def _run(folder: Path, words: str) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-c", words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("words", RUN)
def test_documented_commands_run(words: str, clone: Path) -> None:
    _run(clone, words)
