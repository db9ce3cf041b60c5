"""Brings into the site what the pages link to beside docs/: pages at the top, and files, which are shown as they are.

mkdocs knows links within its folder only. A link to a folder becomes its name alone, and README.md the home page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\[([^\]]*)\]\((?!https?://|#)([^)#\s]+)(#[^)]*)?\)")


def _locate(page: str) -> Path:
    """Find the file of a page or file of the site: below docs/, or else from the top on."""
    return DOCS / page if (DOCS / page).exists() else ROOT / page


def _resolve(page: str, link: str) -> tuple[Path, str]:
    """Find what a page's link means, and its place in the site."""
    target = Path(posixpath.normpath((_locate(page).parent / link).as_posix()))
    return target, target.relative_to(DOCS if target.is_relative_to(DOCS) else ROOT).as_posix()


def _list_pages(nav: list[Any]) -> list[str]:
    """List the paths in a navigation."""
    parts = (next(iter(each.values())) if isinstance(each, dict) else each for each in nav)
    return [page for part in parts for page in (_list_pages(part) if isinstance(part, list) else [part])]


def on_config(config: Any) -> Any:
    """Add the decisions to the last part of the navigation."""
    (pages,) = config.nav[-1].values()
    pages.append({"Decisions": sorted(f"decisions/{each.name}" for each in (DOCS / "decisions").glob("*.md"))})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add what is named and linked to, and what that links to."""
    from mkdocs.structure.files import File

    waiting, seen = _list_pages(config.nav), set()
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, abs_src_path=str(_locate(page))))
        if page.endswith(".md"):
            links = (_resolve(page, link) for _, link, _ in LINK.findall(_locate(page).read_text("utf-8")))
            waiting += [place for target, place in links if target.is_file()]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn a page's links to the places that their targets have in the site."""
    here = page.file.src_uri

    def rewrite(match: re.Match[str]) -> str:
        text, link, anchor = match.groups()
        target, place = _resolve(here, link)
        if target.is_dir():
            return str(text)
        return f"[{text}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor or ''})"

    return LINK.sub(rewrite, markdown)
