"""The command `lora-ns`: `lora-ns train quickstart` is `python train.py --config configs/quickstart.yaml`."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from utils.core.errors import EXIT_BAD_INPUT
from utils.core.project import COMMANDS, IS_INSTALLED, PACKAGE, PROGRAM, ROOT, VERSION

_MODULES = {"docs": "cli.shipped", "copy": "cli.shipped", "plan": "planning.command"} | {
    name: f"runs.{name}" for name in ("compare", "report", "push")
}
"""Commands implemented as modules."""
_COMMANDS = {
    "train FILE [key=value ...]": "train one run; FILE may be a shipped one's name, such as quickstart",
    "plan FILE [--card a100-40g]": "estimate a run's memory, steps and time before training",
    "infer --run FOLDER ...": "use a finished run, a merged model or one of the hub",
    "evaluate --run FOLDER ...": "score a model on sets",
    "merge --run FOLDER ...": "merge an adapter into its base",
    "benchmark SUITE ...": "run tasks x methods x seeds into one table",
    "validate FILE ...": "check configuration files",
    "compare RUN RUN ...": "show how finished runs differ: settings, scores, costs",
    "report RUN": "write a run's report.html and curves again",
    "push RUN NAME [--dry-run]": "push a run, or a merged model, to the hub; --run hub:NAME reads it back",
    "copy [NAME] [FILE]": "copy a shipped file to start from, such as template_sft, or list them",
    "docs [PAGE]": "print a page of the documentation, or list the pages",
    "version": "print the version and the installation folder",
}
"""Usage of each command and its one-line description."""


def write_help() -> str:
    """Return the list of commands, wrapped to the terminal's width."""
    formatter = argparse.HelpFormatter(PROGRAM, max_help_position=34)
    formatter.add_usage("%(prog)s COMMAND ...", [], [])
    formatter.start_section("commands")
    formatter.add_arguments(argparse.Action([], name, metavar=name, help=told) for name, told in _COMMANDS.items())
    formatter.end_section()
    return f"{formatter.format_help()}\n{PROGRAM} COMMAND --help says more. lora-ns {VERSION}"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command named by the first word with the other words."""
    given = list(sys.argv[1:] if words is None else words)
    command, *rest = given or ["--help"]
    if command in ("-h", "--help", "help"):
        print(write_help())
        return 0
    if command in ("version", "--version"):
        print(f"lora-ns {VERSION}  {ROOT}{'' if IS_INSTALLED else ' (a clone)'}")
        return 0
    if command in _MODULES:
        sys.argv = [f"{PROGRAM} {command}", *rest]
        runpy.run_module(f"{PACKAGE}.{_MODULES[command]}", run_name="__main__")
    if command not in COMMANDS:
        near = get_close_matches(command, [name.partition(" ")[0] for name in _COMMANDS], n=1)
        told = f"; did you mean {near[0]}?" if near else f"\n\n{write_help()}"
        sys.stderr.write(f"{PROGRAM}: no command is called {command}{told}\n")
        return EXIT_BAD_INPUT
    script = ROOT / COMMANDS[command]
    sys.argv = [str(script), *rest]
    runpy.run_path(str(script), run_name="__main__")  # which calls sys.exit
    return 0


if __name__ == "__main__":
    sys.exit(main())
