"""Paths named by the documentation exist; every page is in the site, and the container copies existing files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomllib
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
PATH = re.compile(r"(?<![\w/.-])(?:utils|tests|docs|configs|examples|perf|scripts)/[\w./-]*[\w/]")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_exists(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # it describes the past
    named = {match.rstrip(".") for match in PATH.findall(page.read_text("utf-8"))}
    gone = [path for path in sorted(named) if not (ROOT / path).exists() and not list(ROOT.glob(f"{path}.py"))]
    assert gone == []


def _list_pages(nav: list[Any]) -> list[str]:
    parts = (next(iter(each.values())) for each in nav)
    return [page for part in parts for page in (_list_pages(part) if isinstance(part, list) else [part])]


def test_every_page_is_in_the_site() -> None:
    nav = _list_pages(yaml.safe_load((ROOT / "docs" / "site" / "mkdocs.yml").read_text("utf-8"))["nav"])
    assert not {page.name for page in (ROOT / "docs").glob("*.md")} - set(nav), "add it to nav in docs/site/mkdocs.yml"
    assert not [page for page in nav if not (ROOT / "docs" / page).exists() and not (ROOT / page).exists()]


@pytest.mark.slow
def test_the_site_is_built_without_warnings(tmp_path: Path) -> None:
    words = ["build", "--strict", "-f", "docs/site/mkdocs.yml", "-d", str(tmp_path / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "not included in the" not in done.stderr
    pages = {page: page.read_text("utf-8") for page in (tmp_path / "site").rglob("index.html")}
    raw = [str(page) for page, text in pages.items() if re.search(r"^(- |\| )", text, re.MULTILINE)]
    assert not raw, "a list or table is not rendered; a blank line or four spaces are missing"
    home = pages[tmp_path / "site" / "index.html"]
    assert "lora-ns train quickstart" in home
    assert (tmp_path / "site" / "configs" / "glue_bert.yaml").is_file(), "linked files are copied"


def test_the_image_is_built_from_existing_files() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text("utf-8").splitlines()
    assert [line.rpartition(" ")[2] for line in lines if line.startswith("FROM")] == ["base", "cpu", "cuda"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    asked = {name for line in lines for found in re.findall(r"'\.\[([\w,]+)\]'", line) for name in found.split(",")}
    assert asked
    assert asked <= set(extras)
    kept = (ROOT / "docker" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert all(list(ROOT.glob(line[1:])) for line in kept if line.startswith("!"))
