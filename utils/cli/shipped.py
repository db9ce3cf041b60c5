"""The commands `docs` and `copy`, for pages and files of the package when no clone is at hand."""

from __future__ import annotations

import argparse
import re
import sys
from itertools import takewhile
from pathlib import Path
from textwrap import shorten

from utils.cli.command_line import Answer, run_cli
from utils.cli.parser import build_parser
from utils.core.errors import UserError
from utils.core.project import ROOT, as_called, call_command
from utils.core.terminal import write_data

DOCS = """Print a page of the documentation as Markdown; without a name list the pages.

  lora-ns docs
  lora-ns docs conversations | less"""
COPY = """Copy a shipped run file, suite or script to start from; without a name list them.

  lora-ns copy
  lora-ns copy template_sft my_run.yaml          every key of supervised fine-tuning, with its default
  lora-ns copy benchmarks/quickstart my_suite.yaml
  lora-ns copy examples/train_glue.sh"""
_RELATIVE = re.compile(r"^(base: |extends: |# yaml-language-server: \$schema=)(\S+)", re.MULTILINE)
"""A reference to another file relative to the file itself."""
_TO_TOP = 'cd "$(dirname "$0")/.."\n\n'
"""Beginning of a script of examples/ in a clone: it changes to the top folder."""
_CALLED = re.compile(r'(?<="\$PYTHON" )(\w+\.py)|(?<=^  )(train\.py)', re.MULTILINE)
"""A command in such a script, called by $PYTHON or by a launcher on the previous line."""


def show_page(arguments: argparse.Namespace) -> Answer:
    """Print a page, or list all pages."""
    pages = {path.stem: path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
    if arguments.name is None:
        return _list({name: path.read_text("utf-8").partition("\n")[0].lstrip("# ") for name, path in pages.items()})
    name = arguments.name.removeprefix("docs/").removesuffix(".md")
    text = as_called(_choose(name, pages, "page").read_text("utf-8"))
    write_data(text)
    return {"page": name, "text": text}


def copy_file(arguments: argparse.Namespace) -> Answer:
    """Copy a file, or list all files; existing files are not overwritten."""
    folder = ROOT / "configs"
    files = {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}
    scripts = [*sorted(ROOT.glob("examples/*.sh")), *ROOT.glob("examples/slurm/*.sbatch")]
    files |= {str(path.relative_to(ROOT)): path for path in scripts}
    if arguments.name is None:
        return _list({name: _read_first_sentence(path) for name, path in files.items()})
    source = _choose(arguments.name.removeprefix("configs/").removesuffix(".yaml"), files, "file")
    target = Path(arguments.file or source.name).expanduser()
    text = _RELATIVE.sub(lambda found: f"{found[1]}{(source.parent / found[2]).resolve()}", source.read_text("utf-8"))
    text = text if source.suffix == ".yaml" else _detach(text)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(as_called(text))
    except FileExistsError:
        raise UserError(f"{target}: is there already; name another file behind {arguments.name}") from None
    target.chmod(source.stat().st_mode)
    write_data(f"{target}\n")
    return {"file": str(target)}


def _detach(script: str) -> str:
    """Rewrite a script of examples/ to run in any folder: with this Python, our commands and the shipped files."""
    text = script.replace(_TO_TOP, "\n").replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    text = _CALLED.sub(lambda found: call_command(found[1] or found[2]), text)
    text = re.sub(r"(?<!\w)(configs/accelerate|examples/quickstart)/", rf"{ROOT}/\1/", text)
    return re.sub(r"(?<= )examples/(?:slurm/)?(\w+\.s\w+)", r"./\1", text)


def _choose(name: str, known: dict[str, Path], kind: str) -> Path:
    if name not in known:
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}"
        raise UserError(f"no {kind} called {name}{hint}")
    return known[name]


def _list(told: dict[str, str]) -> Answer:
    width = max(map(len, told)) + 2
    write_data("".join(f"{name:{width}}{shorten(text, 110, placeholder=' ...')}\n" for name, text in told.items()))
    return {"names": list(told)}


def _read_first_sentence(path: Path) -> str:
    comment = takewhile(lambda line: line.startswith("#"), path.read_text("utf-8").splitlines())
    lines = (line.lstrip("# ") for line in comment if not line.startswith(("# yaml-language-server", "#!")))
    return re.split(r"[.;] |  ", " ".join(lines))[0].rstrip(".")


def build(command: str) -> argparse.ArgumentParser:
    """Build the command line of `docs` or `copy`."""
    parser = build_parser(f"lora-ns {command}", DOCS if command == "docs" else COPY)
    parser.add_argument("name", nargs="?", metavar="PAGE" if command == "docs" else "NAME", help="a name from the list")
    if command == "copy":
        parser.add_argument("file", nargs="?", metavar="FILE", help="path of the copy; default: its own name, here")
    return parser


if __name__ == "__main__":
    _command = sys.argv[0].rpartition(" ")[2]
    sys.exit(run_cli(show_page if _command == "docs" else copy_file, build(_command), sys.argv[1:]))
