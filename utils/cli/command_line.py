"""Shared by every command: how it runs, its exit codes, and `--json`."""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from types import TracebackType
from typing import Any, TextIO

from utils.cli.parser import parse_words
from utils.core.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED, ConfigError, LoraNsError, UserError
from utils.core.library_errors import explain_machine
from utils.core.logs import is_main_process, prepare_libraries, require_ranks, start_logs
from utils.core.project import as_called
from utils.core.registry import explain_added
from utils.core.secrets import forget_secrets, learn_command, mask_text, mask_tree
from utils.core.signals import Interrupted
from utils.core.terminal import open_missing_streams, reserve_stdout, safe_streams, show_controls

_HEAD_START_S = 2.0

# Importing the libraries creates nearly a million objects that stay; with Python's third threshold of 10, they are
# searched for garbage 14 times, a fifth of the imports' time. Young garbage is collected as usual.
_GC_THRESHOLDS = (700, 10, 200)

Answer = dict[str, Any]
"""JSON object printed with `--json`; its `exit_code`, if any, becomes the process's exit code."""


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
        return _work(main, parse_words(parser, words))


def _require_docstrings() -> None:
    if sys.flags.optimize > 1:
        raise UserError(
            "transformers needs its docstrings, which python -OO (PYTHONOPTIMIZE=2) removes; run without it"
        )


def _work(main: Callable[[argparse.Namespace], Answer], arguments: argparse.Namespace) -> int:
    start_logs()
    prepare_libraries()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.excepthook = _show_masked
    answer_file = reserve_stdout() if arguments.json else None
    try:
        _require_docstrings()
        require_ranks()
        answer = main(arguments)
        _flush_output()
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
    except SystemExit:  # a callback of the user's; its code, often 0, would report a success
        sys.stderr.write("error: code that the command ran called sys.exit; the work is not complete\n")
        answer = {"status": "failed", "exit_code": EXIT_FAILED}
    except BaseException as error:  # whatever a plug-in of the user's raises
        machine = explain_machine(error) if isinstance(error, Exception) else None
        if (refused := machine or explain_added(error)) is None:
            raise
        answer = _report(refused)
    code = int(answer.pop("exit_code", 0))
    return code if answer_file is None else _print_answer(answer, answer_file, code)


def _flush_output() -> None:
    if sys.stdout is not None and not sys.stdout.closed:  # a callback of the user's may close or remove it
        sys.stdout.flush()


def _print_answer(answer: Answer, file: TextIO, code: int) -> int:
    """Print the JSON object, and return the exit code, that of a failure if it cannot be printed."""
    shown = json.dumps(mask_tree(answer, but=("answers",)), ensure_ascii=False, default=str)
    try:
        with file:
            file.write(shown + "\n")
    except OSError as error:
        sys.stderr.write(f"error: the answer cannot be printed: {error.strerror}\n")
        return EXIT_FAILED
    return code


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
