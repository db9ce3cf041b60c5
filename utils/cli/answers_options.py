"""Options of evaluate_model.py for existing answers, without slow imports."""

from __future__ import annotations

import argparse

from utils.core.errors import UserError

_ONLY_WITH = ("metrics", "prediction", "reference", "groups", "id")
"""Options that only apply with --answers."""


def add_answers(parser: argparse.ArgumentParser) -> None:
    """Add the options for scoring a file of answers instead of a model."""
    group = parser.add_argument_group("existing answers (no model is loaded)")
    group.add_argument("--answers", metavar="FILE", help="rows with answers: .jsonl, .json, .csv, .tsv or .parquet")
    group.add_argument("--metric", action="append", default=[], dest="metrics", metavar="NAME",
                       help="metric to score them by; repeatable; default: those of --set")  # fmt: skip
    group.add_argument("--prediction", metavar="COLUMN", help="column of the answer, or of a list of answers")
    group.add_argument("--reference", metavar="COLUMN",
                       help="column of the reference, or of a list of them; default: those of --set")  # fmt: skip
    group.add_argument("--group", action="append", default=[], dest="groups", metavar="COLUMN",
                       help="also score the rows of each value of this column; repeatable")  # fmt: skip
    group.add_argument("--id", metavar="COLUMN",
                       help="column of a row's name in --set; default: rows are in its order")  # fmt: skip

    parser.add_argument(
        "--allow_code_execution",
        action="store_true",
        help="run the programs that a model wrote, for pass_at_1 and similar metrics (docs/security.md)",
    )
    parser.add_argument(
        "--code_similarity",
        choices=("difflib", "levenshtein"),
        help="how LongBench's lcc and repobench-p are scored (docs/longbench.md); default: difflib",
    )


def words_of_flags(arguments: argparse.Namespace) -> list[str]:
    """Return the flags as `key=value` arguments."""
    words = ["evaluation.allow_code_execution=true"] if arguments.allow_code_execution else []
    similarity = arguments.code_similarity
    return words + ([f"evaluation.longbench.code_similarity={similarity}"] if similarity else [])


def is_asked(arguments: argparse.Namespace) -> bool:
    """Return whether answers are to be scored.

    Raises:
        UserError: There are no answers, but options that need them, or a model as well.
    """
    if arguments.answers is None:
        if stray := [each for each in _ONLY_WITH if getattr(arguments, each)]:
            raise UserError(f"--{stray[0].rstrip('s')} is for --answers FILE, which is not given")
        return False
    if arguments.run or arguments.model or arguments.adapter:
        raise UserError("--answers needs no model; take --run, --model or --adapter out")
    return True
