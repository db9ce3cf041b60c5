"""The page that maps other trainers' flags: every row of it sets what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import train
from utils.config.overrides import read_overrides
from utils.run_config import load_run_config
from utils.run_config.resolved import flatten

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples" / "from_longbench_flags.md"
CONFIG = ROOT / "configs" / "longbench_sft.yaml"
ROWS = re.findall(r"^\| `--(\w+) ?([^`]*)`[^|]*\| `([^`]+)` \|$", PAGE.read_text("utf-8"), re.MULTILINE)
FLAGS = {
    "model_name", "gpu", "use_lora", "lora_r", "lora_alpha", "learning_rate", "num_epochs", "batch_size",
    "gradient_accumulation_steps", "max_length", "warmup_ratio", "eval_steps", "train_datasets", "max_train_samples",
    "output_dir", "save_steps", "resume_from_checkpoint",
}  # fmt: skip


def test_every_usual_flag_has_a_row() -> None:
    assert {name for name, _, _ in ROWS} == FLAGS | {"no_lora"}


@pytest.mark.parametrize(("flag", "value", "ours"), ROWS, ids=[name for name, _, _ in ROWS])
def test_the_row_sets_what_it_says(flag: str, value: str, ours: str) -> None:
    words = shlex.split(ours)
    if ours.startswith("--"):
        options = train.build().parse_args(["--config", str(CONFIG), *words])
        assert options.gpu == value if flag == "gpu" else options.resume == value
        return
    key = ours.partition("=")[0]
    config = load_run_config(CONFIG, words, files=False)
    written = read_overrides([f"{key}={value}"]).get(tuple(key.split("."))) if value else None
    expected: Any = {"use_lora": "lora", "no_lora": "none"}.get(flag, written)
    expected = value.split() if flag == "train_datasets" else expected
    assert flatten(config.to_dict())[key] == expected
    if flag != "use_lora":
        assert flatten(load_run_config(CONFIG, files=False).to_dict())[key] != expected, "the row shows no change"
