"""Configuration files of other projects, translated: the result is a valid run file, each table row a setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from utils.config.run_config import flatten
from utils.config.yaml_text import read_overrides
from utils.run_config import load_run_config

ROOT = Path(__file__).parents[2]
PAGES = ["from_llamafactory.md", "from_axolotl.md"]


def _read(page: str) -> tuple[str, list[str]]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return text, re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_translation_is_a_valid_run_file_and_each_row_a_setting(page: str, tmp_path: Path) -> None:
    text, (theirs, ours) = _read(page)
    file = tmp_path / "my_run.yaml"
    file.write_text(ours)
    warnings = load_run_config(file, files=False).warnings
    assert not warnings, "a key of the translation has no effect"

    rows = re.findall(r"^\| `([^`]+)`[^|]*\| `([\w.]+=[^`]+)` \|$", text, re.MULTILINE)
    assert len(rows) >= 30
    for there, here in rows:
        words = re.split(r" (?=[\w.]+=)", here)
        config = load_run_config(file, words, files=False)
        found, written = flatten(config.to_dict()), read_overrides(words)
        for key in (word.partition("=")[0] for word in words):
            if key not in ("model.quantization", "model.rope_scaling", "training.wandb"):  # mappings in flow style
                assert found[key] == written.get(tuple(key.split("."))), f"{there}: {here}"
    rates = yaml.safe_load(theirs)["learning_rate"], yaml.safe_load(ours)["training"]["learning_rate"]
    assert float(rates[0]) == float(rates[1])


@pytest.mark.parametrize("page", PAGES)
def test_each_key_of_the_original_has_a_row_or_is_in_the_translation(page: str) -> None:
    text, (theirs, ours) = _read(page)
    behind = text.split("## Key by key")[1]
    ours_keys = {key.rpartition(".")[2] for key in flatten(yaml.safe_load(ours))}

    missing = [key for key in yaml.safe_load(theirs) if key not in ours_keys and not re.search(rf"`{key}\b", behind)]
    assert missing == []
