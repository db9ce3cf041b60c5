"""Run inference with a trained run or a published model: texts in, labels, values or generated answers out."""

from __future__ import annotations

import argparse
import sys

from utils.cli.command_line import Answer, run_cli
from utils.cli.parser import add_server, build_parser, check_server, positive
from utils.core.texts import FILE_KINDS
from utils.inference.request import ModelChoice, Request
from utils.modeling.consent import Consent, add_consent

DESCRIPTION = """Answer texts with a trained run, or with a published model.

  python inference.py --run outputs/quickstart --input_text "The dog sleeps."
  python inference.py --run outputs/gsm8k --input_file questions.jsonl --output_file answers.jsonl
  python inference.py --run outputs/gsm8k --best --input_text "How many is 2 + 3?" --stream
  python inference.py --config configs/gsm8k.yaml --model_path DIR --input_file in.csv --output_file out.xlsx
  cat lines.txt | python inference.py --model Qwen/Qwen2.5-0.5B-Instruct --max_new_tokens 64

A row holds the columns of the run's prompt or texts; it needs no answer. A language model also takes a bare request
in a column prompt or text, which is put into the run's prompt, or a conversation in a column messages. A txt file has
one text per line. The same command continues where an earlier one stopped. A row that cannot be answered gets an
error and its line number instead of an answer."""


def main(arguments: argparse.Namespace) -> Answer:
    """Check the request and answer it."""
    check_server(arguments)
    request = _read_request(arguments)
    request.check()
    from utils.inference.session import answer_request

    return answer_request(request)


def _read_request(arguments: argparse.Namespace) -> Request:
    given = {name: getattr(arguments, name) for name in ("max_new_tokens", "temperature", "top_p", "top_k", "stop")}
    given["batch_size"] = arguments.batch_size
    choice = ("run", "best", "checkpoint", "config", "model_path", "model", "adapter")
    return Request(
        choice=ModelChoice(
            **{name: getattr(arguments, name) for name in choice}, consent=Consent.of_command(arguments)
        ),
        texts=tuple(arguments.input_text),
        input_file=arguments.input_file,
        input_format=arguments.input_format,
        input_quoting=arguments.input_quoting,
        output_file=arguments.output_file,
        text_columns=tuple(arguments.text_column),
        generation={name: value for name, value in given.items() if value is not None},
        seed=arguments.seed,
        server=arguments.server,
        served_model=arguments.served_model,
        stream=arguments.stream,
        strict=arguments.strict,
        as_json=arguments.json,
    )


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("inference.py", DESCRIPTION)
    which = parser.add_argument_group("the model, in one of four ways")
    which.add_argument(
        "--run", metavar="FOLDER", help="a run folder, its final_model/, a checkpoint, a merged model, hub:OWNER/NAME"
    )
    which.add_argument("--best", action="store_true", help="the run's best checkpoint")
    which.add_argument("--checkpoint", type=positive, metavar="N", help="the run's checkpoint-N")
    which.add_argument("--config", metavar="FILE", help="the configuration of the weights in --model_path")
    which.add_argument("--model_path", metavar="FOLDER", help="an adapter or model; a run's own run.yaml wins")
    which.add_argument("--model", metavar="NAME", help="a hub name or folder of a model without a run")
    which.add_argument("--adapter", metavar="FOLDER", help="an adapter in peft's layout, on --model or its own base")
    add_server(which)
    add_consent(parser)
    rows = parser.add_argument_group("rows", "Default: from standard input to standard output, as JSON lines.")
    rows.add_argument("--input_text", action="append", default=[], metavar="TEXT", help="a text; repeatable")
    rows.add_argument("--input_file", metavar="FILE", help=f"rows to answer: {', '.join(FILE_KINDS)}")
    formats = [kind.removeprefix(".") for kind in FILE_KINDS]
    rows.add_argument("--input_format", choices=formats, help="format of the input, where its name does not tell")
    rows.add_argument(
        "--input_quoting",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="quotes enclose fields of a table",
    )
    rows.add_argument("--output_file", metavar="FILE", help="rows with answers: .jsonl .json .csv .tsv .xlsx .parquet")
    rows.add_argument(
        "--text_column", action="append", default=[], metavar="NAME", help="a column to read instead of the run's"
    )
    rows.add_argument("--strict", action="store_true", help="stop at the first row that cannot be answered")
    writing = parser.add_argument_group("language models (overrides the run's generation: section)")
    writing.add_argument("--max_new_tokens", type=positive, metavar="N", help="maximum number of tokens in an answer")
    writing.add_argument("--temperature", type=float, metavar="T", help="0: always the most likely token")
    writing.add_argument("--top_p", type=float, metavar="P", help="nucleus sampling: tokens of total probability P")
    writing.add_argument("--top_k", type=positive, metavar="K", help="sample from the K most likely tokens")
    writing.add_argument("--stop", action="append", metavar="TEXT", help="a text that ends an answer; repeatable")
    writing.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sampling; default 0")
    writing.add_argument("--batch_size", type=positive, metavar="N", help="prompts answered at once")
    writing.add_argument("--stream", action="store_true", help="show the answer to one text while it is generated")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
