"""The command `lora-ns`: `lora-ns train quickstart` is `python train.py --config configs/quickstart.yaml`."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from utils.core.errors import EXIT_BAD_INPUT
from utils.core.project import COMMANDS, IS_INSTALLED, PACKAGE, ROOT, VERSION

_TAKES_CONFIG = ("train", "benchmark")
_NEEDS_NO_FILE = ("--config", "-h", "--help", "--version")
_MODULES = {"docs": "cli.shipped", "copy": "cli.shipped"} | {
    name: f"runs.{name}" for name in ("compare", "report", "push")
}
"""Commands that are modules."""
_USAGE = f"""usage: lora-ns COMMAND ...

  lora-ns train FILE [key=value ...]     train one run; FILE may be a shipped one's name, such as quickstart
  lora-ns plan FILE [--card a100-40g]    what a run will take in steps, memory and time: train FILE --plan
  lora-ns infer --run FOLDER ...         use a finished run, a merged model or one of the hub
  lora-ns evaluate --run FOLDER ...      score a model on sets
  lora-ns merge --run FOLDER ...         merge an adapter into its base
  lora-ns benchmark SUITE ...            run tasks x methods x seeds into one table
  lora-ns validate FILE ...              check configuration files
  lora-ns compare RUN RUN ...            in what finished runs differ: settings, scores, costs
  lora-ns report RUN                     write a run's report.html and curves again
  lora-ns push RUN NAME [--dry-run]      push a run, or a merged model, to the hub; --run hub:NAME reads it back
  lora-ns copy [NAME] [FILE]             copy a shipped file to start from, such as template_sft; list them
  lora-ns docs [PAGE]                    print a page of the documentation; list them
  lora-ns version                        name the version and where it lies

lora-ns COMMAND --help says more. lora-ns {VERSION}"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, with the other words."""
    given = list(sys.argv[1:] if words is None else words)
    command, *rest = given or ["--help"]
    if command in ("-h", "--help", "help"):
        print(_USAGE)
        return 0
    if command in ("version", "--version"):
        print(f"lora-ns {VERSION}  {ROOT}{'' if IS_INSTALLED else ' (a clone)'}")
        return 0
    if command in _MODULES:
        sys.argv = [f"lora-ns {command}", *rest]
        runpy.run_module(f"{PACKAGE}.{_MODULES[command]}", run_name="__main__")
    if command == "plan":
        command, rest = "train", [*rest, "--plan"]
    if command not in COMMANDS:
        near = get_close_matches(command, re.findall(r"^  lora-ns (\w+)", _USAGE, re.MULTILINE), n=1)
        told = f"; did you mean {near[0]}?" if near else f"\n\n{_USAGE}"
        return _refuse(f"lora-ns: no command is called {command}{told}")
    if command in _TAKES_CONFIG and not any(word.partition("=")[0] in _NEEDS_NO_FILE for word in rest):
        if not rest or rest[0].startswith("-") or "=" in rest[0]:
            return _refuse(f"lora-ns {command}: name a file first, your own or a shipped one (lora-ns copy lists them)")
        rest = ["--config", *rest]
    script = ROOT / COMMANDS[command]
    sys.argv = [str(script), *rest]
    runpy.run_path(str(script), run_name="__main__")  # which ends by sys.exit
    return 0


def _refuse(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
