"""Uses a trained run: texts from the command line or a file in, labels and probabilities out."""

from __future__ import annotations

import argparse
import json
import sys

from utils.doors import Answer, build_parser, open_door
from utils.errors import UserError
from utils.inference.rows import check_paths

DESCRIPTION = """Classify texts with a trained run.

  python inference.py --run outputs/quickstart --input_text "The dog sleeps."
  python inference.py --run outputs/quickstart --input_file rows.jsonl --output_file answers.jsonl

A run on pairs takes two --input_text for each row. Files: txt, jsonl, csv, tsv in; jsonl, csv, tsv out."""


def main(arguments: argparse.Namespace) -> Answer:
    """Load the run and answer."""
    _check_options(arguments)
    from utils.inference.classification import RunClassifier

    classifier = RunClassifier(arguments.run)
    if arguments.input_file:
        rows = classifier.classify_file(arguments.input_file, arguments.output_file)
        print(f"{rows} rows: {arguments.output_file}", file=sys.stderr)
        return {"rows": rows, "output_file": arguments.output_file}
    answers = classifier.classify_texts(arguments.input_text)
    if not arguments.json:
        for answer in answers:
            print(json.dumps(answer, ensure_ascii=False))
    return {"answers": answers}


def _check_options(arguments: argparse.Namespace) -> None:
    if bool(arguments.input_text) == bool(arguments.input_file):
        raise UserError("give either --input_text (repeatable) or --input_file")
    if bool(arguments.input_file) != bool(arguments.output_file):
        raise UserError("--input_file and --output_file go together")
    if arguments.input_file:
        check_paths(arguments.input_file, arguments.output_file)


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("inference.py", DESCRIPTION)
    parser.add_argument("--run", required=True, metavar="FOLDER", help="a run folder, its final_model/ or a checkpoint")
    parser.add_argument("--input_text", action="append", metavar="TEXT", help="a text; repeatable")
    parser.add_argument("--input_file", metavar="FILE", help="rows to classify")
    parser.add_argument("--output_file", metavar="FILE", help="where the rows go with their answers")
    return parser


if __name__ == "__main__":
    sys.exit(open_door(main, build(), sys.argv[1:]))
