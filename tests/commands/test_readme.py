"""Every command that the documentation shows can be parsed by the commands."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from utils.cli.parser import parse_words

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("configs/**/*.yaml"),
    *ROOT.glob("examples/**/*.md"),
]
COMMAND = re.compile(
    r"python (train|inference|evaluate_model|merge_adapter|validate_config|benchmark)\.py ((?:[^\n`]|\\\n)*)"
)


def _commands() -> list[tuple[str, str, str]]:
    found = []
    for page in PAGES:
        text = re.sub(r"\\\n#?\s*", " ", page.read_text("utf-8"))
        for script, words in COMMAND.findall(text):
            command = re.split(r"\s{3,}| #|[|>;](?=(?:[^']*'[^']*')*[^']*$)", words)[0].strip()
            if command != "--help" and "..." not in command.replace('"..."', ""):
                found.append((page.name, script, command))
    return found


@pytest.mark.parametrize("page", sorted({page for page, _, _ in _commands()}))
def test_documented_commands_can_be_parsed(page: str) -> None:
    for _, script, command in (each for each in _commands() if each[0] == page):
        arguments = parse_words(importlib.import_module(script).build(), shlex.split(command))
        if getattr(arguments, "config", None) and arguments.config.startswith("configs/"):
            assert (ROOT / arguments.config).is_file(), f"{page} names {arguments.config}"


def test_pages_hold_commands() -> None:
    scripts = [script for _, script, _ in _commands()]

    assert scripts.count("train") >= 10
    assert {"inference", "evaluate_model", "merge_adapter", "validate_config", "benchmark"} <= set(scripts)


def test_readme_names_the_two_commands() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()

    for command in ("quickstart", "test"):
        assert f"make {command}" in readme
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_the_chinese_readme_has_the_same_commands() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md"))
    headings = [re.findall(r"^(#+) ", text, re.MULTILINE) for text in (english, chinese)]
    assert headings[0] == headings[1]
    links = [{*re.findall(r"\]\(([^)]+)\)", text)} - {"README.md", "README.zh-CN.md"} for text in (english, chinese)]
    assert links[0] == links[1]
    sources = [(re.findall(r"\]\[([\w-]+)\]", text), re.findall(r"^\[([\w-]+)\]: (\S+)$", text, re.MULTILINE))
               for text in (english, chinese)]  # fmt: skip
    assert sources[0] == sources[1]
    assert set(sources[0][0]) == {name for name, _ in sources[0][1]}, "every cell's source is named, and used"
    blocks = [re.findall(r"^ *```.*?^ *```", text, re.MULTILINE | re.DOTALL) for text in (english, chinese)]
    commands = [[re.sub(r"\s+#.*", "", line) for block in each for line in block.splitlines()] for each in blocks]
    assert commands[0] == commands[1]
