"""The pages that map other scripts' flags: every row sets what it states, and so does the command line."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import train
from utils.cli.other_flags import FLAGS, PAGES, explain_flags
from utils.config.run_config import flatten
from utils.config.yaml_text import read_overrides
from utils.run_config import load_run_config

ROOT = Path(__file__).parents[2]
FLAGS_OF = {
    "docs/longbench.md": {
        "model_name", "gpu", "use_lora", "no_lora", "lora_r", "lora_alpha", "learning_rate", "num_epochs", "batch_size",
        "gradient_accumulation_steps", "max_length", "warmup_ratio", "eval_steps", "train_datasets",
        "max_train_samples", "output_dir", "save_steps", "resume_from_checkpoint",
    },
    "docs/from_run_glue.md": {
        "model_name_or_path", "task_name", "max_seq_length", "per_device_train_batch_size", "learning_rate",
        "num_train_epochs", "output_dir", "overwrite_output_dir", "seed", "weight_decay", "warmup_ratio", "fp16",
        "task", "epochs", "model", "method", "use_lora", "rank", "lr", "batch_size", "max_len",
    },
}  # fmt: skip
"""Flags that each page must map."""


class Row(NamedTuple):
    page: str
    config: str
    """The shipped file that the table's section names first."""
    flag: str
    value: str
    ours: str


def _read_rows(page: str) -> Iterator[Row]:
    for section in (ROOT / page).read_text("utf-8").split("\n## "):
        named = re.search(r"configs/\w+\.yaml", section)
        for found in re.findall(r"^\| `--(\w+) ?([^`]*)`[^|]*\| `([^`]+)` \|$", section, re.MULTILINE):
            assert named, f"{page}: a table without a configuration"
            yield Row(page, named[0], *found)


ROWS = [row for page in PAGES for row in _read_rows(page)]


def test_every_page_is_named_and_has_its_usual_flags() -> None:
    assert set(PAGES) == set(FLAGS_OF)
    for page, flags in FLAGS_OF.items():
        found = {row.flag for row in ROWS if row.page == page}
        assert flags <= found
        lines = (ROOT / page).read_text("utf-8").count("\n| `--")
        assert lines == len([row for row in ROWS if row.page == page]), "a row that no test parses"


@pytest.mark.parametrize("row", ROWS, ids=[f"{Path(row.config).stem}-{row.flag}" for row in ROWS])
def test_each_row_sets_what_it_states(row: Row) -> None:
    words = shlex.split(row.ours)
    config_file = ROOT / row.config
    if row.ours.startswith("--"):
        options = train.build().parse_args(["--config", str(config_file), *words])
        expected = {"gpu": options.gpu, "gpus": options.gpu, "overwrite_output_dir": ""}.get(row.flag, options.resume)
        assert expected == row.value
        assert options.overwrite == (row.flag == "overwrite_output_dir")
        return
    key = row.ours.partition("=")[0]
    config = load_run_config(config_file, words, files=False)
    written: Any = read_overrides([f"{key}={row.value}"]).get(tuple(key.split("."))) if row.value else True
    expected = {"use_lora": "lora", "use_qst": "qst", "no_lora": "none", "full_finetune": "none"}.get(row.flag, written)
    expected = row.value.split() if row.flag == "train_datasets" else expected
    found, before = (flatten(each.to_dict()) for each in (config, load_run_config(config_file, files=False)))
    if row.flag == "load_in_4bit":
        assert (found["model.quantization.bits"], before["model.quantization"]) == (4, None)
        return
    assert found[key] == expected
    if row.flag != "use_lora":
        assert before.get(key) != expected, "the row changes nothing"


@pytest.mark.parametrize("row", ROWS, ids=[f"{Path(row.config).stem}-{row.flag}" for row in ROWS])
def test_the_command_line_prints_the_same_mapping(row: Row) -> None:
    if row.flag in ("gpu", "resume_from_checkpoint"):
        return  # options of ours
    (said,) = explain_flags([f"--{row.flag}", *row.value.split()], frozenset())
    assert row.ours in said


def test_every_flag_maps_to_a_known_section() -> None:
    keys = {each.partition("=")[0] for forms in FLAGS.values() for each in forms if "=" in each}
    sections = ("model.", "peft.", "dataset.", "training.", "sft.", "evaluation.")
    assert all(key.startswith(sections) or key in ("seed", "HF_HOME") for key in keys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "x.yaml", "--seed", "11"], ["--seed 11 is written seed=11"]),
        (
            ["--model_name", "gpt2", "--use_lora"],
            ["--model_name gpt2 is written model.name_or_path=gpt2", "--use_lora is written peft.method=lora"],
        ),
        (["--config", "x.yaml", "--method=lora"], ["--method lora is written peft.method=lora"]),
        (
            ["--task", "rte", "--epochs", "1"],
            ["--task rte is written dataset.subset=rte", "--epochs 1 is written training.num_train_epochs=1"],
        ),
        (["--max-seq-length", "9"], ["dataset.max_length=9 (of a language model sft.max_length=9)"]),
        (["--do_train"], ["leave out --do_train: it is always so"]),
        (["--hub_token", "hf_" + "Ab12" * 8], ["HF_TOKEN in the environment"]),
    ],
)
def test_other_scripts_flags_are_explained(
    words: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from utils.cli.command_line import run_cli

    with pytest.raises(SystemExit) as caught:
        run_cli(train.main, train.build(), words)
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert all(line in text for line in said), text
    assert "docs/from_run_glue.md" in text
    assert "Ab12" not in text


def test_an_unknown_flag_names_no_page(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "train.py", "--config", "x.yaml", "--nonsense", "1"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "unrecognized arguments: --nonsense\n" in done.stderr
    assert "docs/" not in done.stderr
