"""Shared parts of every command: its command line, the choice of GPUs, exit codes, and `--json`."""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import os
import re
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from shutil import which
from types import TracebackType
from typing import Any, NoReturn, TextIO

from utils.cli.other_flags import PAGES, explain_flags
from utils.core.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED, ConfigError, LoraNsError, UserError
from utils.core.library_errors import explain_machine
from utils.core.logs import is_main_process, prepare_libraries, require_ranks, start_logs
from utils.core.project import PROGRAM, VERSION, as_called
from utils.core.registry import explain_added
from utils.core.secrets import forget_secrets, learn_command, mask_text, mask_tree
from utils.core.signals import Interrupted
from utils.core.terminal import open_missing_streams, reserve_stdout, safe_streams, show_controls

_OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*=.*", re.DOTALL)

_HEAD_START_S = 2.0

# Nearly a million objects of the imported libraries stay; with Python's own third threshold of 10 they are searched for
# garbage 14 times while they are made, a fifth of the time that the imports take. Young garbage is collected as ever.
_GC_THRESHOLDS = (700, 10, 200)

Answer = dict[str, Any]
"""JSON object printed with `--json`; its `exit_code`, if any, becomes the process's exit code."""


def build_parser(script: str, description: str) -> argparse.ArgumentParser:
    """Build the parser of a command, with the options common to all."""
    prog, told = (as_called(text.replace("lora-ns ", f"{PROGRAM} ")) for text in (script, description))
    parser = _Parser(prog=prog, description=told, formatter_class=_Formatter, allow_abbrev=False)
    told = "print one JSON object on standard output, all else on standard error"
    parser.add_argument("--json", action="store_true", help=told)
    parser.add_argument("--version", action="version", version=f"lora-ns {VERSION}")
    return parser


def add_config(parser: argparse.ArgumentParser, told: str) -> None:
    """Accept the YAML file as a positional argument or by `--config`."""
    either = parser.add_mutually_exclusive_group(required=True)
    shipped = f"{told}, or a shipped one's name, such as quickstart ({PROGRAM} copy lists them)"
    either.add_argument("config", nargs="?", default=argparse.SUPPRESS, metavar="FILE", help=shipped)
    either.add_argument("--config", metavar="FILE", help="the same as FILE")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Accept `key=value` overrides anywhere on the command line."""
    parser.set_defaults(overrides=[])
    parser.epilog = (
        "key=value words override the file, in YAML syntax:\n\n  training.learning_rate=1e-4 peft.lora_r=16\n"
        "  dataset.max_train_samples=null 'peft.target_modules=[q_proj, v_proj]'"
    )


def add_server(parser: argparse._ActionsContainer) -> None:
    """Add the options for generating with a server."""
    parser.add_argument(
        "--server",
        metavar="URL",
        help="an OpenAI-compatible server that writes, such as vLLM: http://127.0.0.1:8000/v1 (docs/serving.md)",
    )
    parser.add_argument("--served_model", metavar="NAME", help="which of its models; default: the only one")


def add_show(parser: argparse.ArgumentParser) -> None:
    """Add the option for showing answers with the scores."""
    parser.add_argument(
        "--show", type=_count, default=3, metavar="N", help="answers of each set to show at the end; default 3"
    )


def _count(word: str) -> int:
    return 0 if word == "0" else positive(word)


def check_server(arguments: argparse.Namespace) -> None:
    """Check that a served model is named only with a server."""
    if arguments.served_model is not None and arguments.server is None:
        raise UserError("--served_model names a model of a --server; give its address too")


def run_cli(main: Callable[[argparse.Namespace], Answer], parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Run a command: parse its command line, do its work, and convert the outcome to an exit code.

    The codes are 0 success, 1 failure, 2 bad input, 75 saved to be requeued, 130 interrupted.
    """
    atexit.register(gc.freeze)  # else Python spends over a second looking for cycles among the libraries as it ends
    forget_secrets()
    learn_command(words)
    open_missing_streams()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    with safe_streams():
        return _work(main, _parse(parser, words))


def _work(main: Callable[[argparse.Namespace], Answer], arguments: argparse.Namespace) -> int:
    start_logs()
    prepare_libraries()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.excepthook = _show_masked
    answer_file = reserve_stdout() if arguments.json else None
    try:
        require_ranks()
        answer = main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has gone; Python would complain again on exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILED
    except LoraNsError as error:
        answer = _report(error)
    except Interrupted as error:
        sys.stderr.write(f"interrupted ({error})\n" if is_main_process() else "")
        answer = {"status": "interrupted", "exit_code": error.exit_code}
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        answer = {"status": "interrupted", "exit_code": EXIT_INTERRUPTED}
    except Exception as error:  # also whatever a plug-in of the user's raises
        if (refused := explain_machine(error) or explain_added(error)) is None:
            raise
        answer = _report(refused)
    code = int(answer.pop("exit_code", 0))
    return code if answer_file is None else _print_answer(answer, answer_file, code)


def _print_answer(answer: Answer, file: TextIO, code: int) -> int:
    """Print the one JSON object; returns the exit code, which is another where it cannot be printed."""
    shown = json.dumps(mask_tree(answer, but=("answers",)), ensure_ascii=False, default=str)
    try:
        with file:
            file.write(shown + "\n")
    except OSError as error:
        sys.stderr.write(f"error: the answer cannot be printed: {error.strerror}\n")
        return EXIT_FAILED
    return code


def positive(word: str) -> int:
    """Parse a whole number from 1 on; an argparse type."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 1")
    return int(word)


def read_names(text: str) -> tuple[str, ...]:
    """Parse comma-separated names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def read_seeds(text: str) -> tuple[int, ...]:
    """Parse comma-separated seeds; an argparse type."""
    found = read_names(text)
    if not found or not all(word.isdecimal() for word in found) or len({*map(int, found)}) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different whole numbers, such as 1,2,3")
    return tuple(map(int, found))


def read_number(text: str) -> float:
    """Parse a number above 0; an argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(value) if value.is_integer() else value


def read_shard(text: str) -> tuple[int, int]:
    """Parse a part such as 1/4; an argparse type."""
    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 1/4, 2/4, 3/4 or 4/4")
    return int(part), int(of)


def split_overrides(words: Sequence[str], takes_value: frozenset[str]) -> tuple[list[str], list[str]]:
    """Split a command line into arguments for the option parser and overrides, both in order.

    A word `key=value` is an override wherever it is, except directly after an option that requires a value:
    `--input_text a=b` is a text, but `--resume training.num_train_epochs=5` is an option and an override.
    """
    rest: list[str] = []
    overrides: list[str] = []
    for index, word in enumerate(words):
        is_value = index > 0 and words[index - 1] in takes_value
        (overrides if _OVERRIDE.fullmatch(word) and not is_value else rest).append(word)
    return rest, overrides


def select_gpus(choice: str | None, script: str, words: Sequence[str]) -> None:
    """Make only the chosen GPUs visible; with more than one, relaunch the command through torchrun.

    Must run before torch is imported. A process started by a launcher leaves the choice to it. `choice` is the value of
    `--gpu`, `0` or `0,1`; None leaves the environment unchanged.

    Raises:
        UserError: An index is not a number, or there is no such GPU.
    """
    if choice is None or "LOCAL_RANK" in os.environ:
        return
    indices = choice.replace(" ", "").split(",")
    if len(set(indices)) < len(indices):
        raise UserError(f"--gpu {choice}: one GPU is named twice")
    present = list_gpus()
    for index in indices:
        if not index.isdecimal():
            raise UserError(f"--gpu {choice}: {index!r} is not a GPU index; write --gpu 0 or --gpu 0,1")
        if int(index) >= len(present):
            has = f"GPUs 0 to {len(present) - 1}" if present else "no NVIDIA GPU"
            raise UserError(f"--gpu {choice}: there is no GPU {index}; this machine has {has}")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(present[int(index)] for index in indices)
    if len(indices) > 1:
        rest = _without_option(words, "--gpu")
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={len(indices)}", script]
        os.execv(sys.executable, [sys.executable, *launch, *rest])  # noqa: S606  # our own interpreter


def list_gpus() -> list[str]:
    """Return the GPUs this process may use: those made visible by a scheduler, or all of the machine."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index in range(_count_gpus())]
    return [name.strip() for name in visible.split(",") if name.strip()]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wrap paragraphs to the terminal's width; indented blocks (examples) are kept as they are."""
        paragraphs = text.split("\n\n")
        return "\n\n".join(each if each.startswith(" ") else textwrap.fill(each, width) for each in paragraphs)


class _Parser(argparse.ArgumentParser):
    words: Sequence[str] = ()
    """The command line without overrides, if the command takes any."""

    def format_help(self) -> str:
        """Format the help with commands and pages named as in this installation."""
        return as_called(super().format_help())

    def error(self, message: str) -> NoReturn:
        """Exit with an error message, with hints for flags of other scripts."""
        options = [each.partition("=")[0] for each in self.words if each.startswith("--")]
        unknown = [each for each in options if each not in self._option_string_actions]
        if unknown and message.startswith("argument FILE: not allowed"):  # an unknown flag's value was read as FILE
            message = f"unrecognized arguments: {' '.join(unknown)}"
        if hints := [*explain_flags(self.words, frozenset(self._option_string_actions))]:
            more = f"more of them: {', '.join(PAGES)}"
            lines = [message, "settings are words of the form key=value here:", *hints, more]
            message = "\n  ".join(lines)
        super().error(as_called(message))


def _parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    if parser.get_default("overrides") is None:
        return parser.parse_args(words)
    takes_value = frozenset(
        option
        for action in parser._actions
        if action.option_strings and action.nargs is None
        for option in action.option_strings
    )
    rest, overrides = split_overrides(words, takes_value)
    if isinstance(parser, _Parser):
        parser.words = rest
    arguments = parser.parse_args(rest)
    arguments.overrides = overrides
    return arguments


def _report(error: LoraNsError) -> Answer:
    number = "" if is_main_process() else f" (process {os.environ['RANK']})"
    if number and isinstance(error, ConfigError):
        time.sleep(_HEAD_START_S)  # so that the first process reports an error that all have
    else:
        for line in as_called(str(error)).split("\n"):
            sys.stderr.write(f"error{number}: {line}\n")
    problems = [vars(problem) for problem in error.problems] if isinstance(error, ConfigError) else []
    kind = "bad_input" if error.exit_code == EXIT_BAD_INPUT else "failed"
    return {"status": kind, "error": str(error), "problems": problems, "exit_code": error.exit_code}


def _show_masked(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an unexpected error with secrets masked."""
    sys.stderr.write(show_controls(mask_text("".join(traceback.format_exception(kind, error, trace)))))


def _count_gpus() -> int:
    if which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)  # noqa: S607
        return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _without_option(words: Sequence[str], option: str) -> list[str]:
    rest, skip = [], False
    for word in words:
        if skip or word.startswith(f"{option}="):
            skip = False
        elif word == option:
            skip = True
        else:
            rest.append(word)
    return rest
