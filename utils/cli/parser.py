"""The parser of a command: options that several share, key=value overrides, and the types of arguments."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from utils.cli.other_flags import PAGES, explain_flags
from utils.core.errors import UserError
from utils.core.project import PROGRAM, VERSION, as_called

_OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*=.*", re.DOTALL)


def build_parser(script: str, description: str) -> argparse.ArgumentParser:
    """Build the parser of a command, with the options common to all."""
    prog, told = (as_called(text.replace("lora-ns ", f"{PROGRAM} ")) for text in (script, description))
    parser = _Parser(prog=prog, description=told, formatter_class=_Formatter, allow_abbrev=False)
    told = "print one JSON object on standard output, everything else on standard error"
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
        help="an OpenAI-compatible server that generates, such as vLLM: http://127.0.0.1:8000/v1 (docs/serving.md)",
    )
    parser.add_argument("--served_model", metavar="NAME", help="name of the server's model; default: the only one")


def add_show(parser: argparse.ArgumentParser) -> None:
    """Add the option for showing answers with the scores."""
    parser.add_argument(
        "--show", type=_count, default=3, metavar="N", help="answers of each set to show at the end; default 3"
    )


def check_server(arguments: argparse.Namespace) -> None:
    """Check that a served model is named only with a server."""
    if arguments.served_model is not None and arguments.server is None:
        raise UserError("--served_model names a model of a --server; give its address too")


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


def parse_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; overrides, if the command takes any, come back in order as `overrides`."""
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


def _count(word: str) -> int:
    return 0 if word == "0" else positive(word)


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
            more = f"see also: {', '.join(PAGES)}"
            lines = [message, "settings are words of the form key=value here:", *hints, more]
            message = "\n  ".join(lines)
        super().error(as_called(message))
