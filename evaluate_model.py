"""Score a trained run, or a published model, on one or more sets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from utils.cli.answers_options import add_answers, is_asked, words_of_flags
from utils.cli.command_line import Answer, run_cli
from utils.cli.parser import add_overrides, add_server, add_show, build_parser, check_server
from utils.core.errors import UserError
from utils.modeling.consent import Consent, add_consent

DESCRIPTION = """Score a trained run, or a published model.

  python evaluate_model.py --run outputs/gsm8k
  python evaluate_model.py --run outputs/metamath_qa --set gsm8k --set gsm8k@train[:500]
  python evaluate_model.py --run outputs/glue_mrpc --set validation
  python evaluate_model.py --model mistralai/Mistral-7B-v0.1 --set gsm8k model.dtype=bfloat16
  python evaluate_model.py --model textattack/bert-base-uncased-MRPC --set glue:mrpc
  python evaluate_model.py --answers answers.jsonl --metric math_equivalence --prediction response --reference gold
  python evaluate_model.py --adapter 'adapters/*' --model mistralai/Mistral-7B-v0.1 --set gsm8k
  python evaluate_model.py --run outputs/longbench_sft --set qmsum --set truthfulqa --set longbench:hotpotqa,trec

A set is NAME, NAME:SUBSET, NAME@SPLIT or NAME:SUBSET@SPLIT. NAME is a dataset of utils/datasets, a file, a folder, a
hub id, or a label under the run's evaluation.sets; @SPLIT alone is a split of the run's own set. After a question mark
come keys of the set or of its dataset's section: 'sums.jsonl?name=gsm8k', 'mine.csv?answer_column=solution'. A mapping
works too: '{name: gsm8k, path: data/sums, split: test, label: sums}'. The prompt is the run's own, zero-shot; a model
without a run gets the set's own (dataset.prompt_template=..., dataset.as_chat=true), as do sets with a protocol of
their own: longbench (each subset is a result, with averages by category), qmsum, truthfulqa, humaneval, mbpp, and math
with a protocol ('math?protocol=minerva_math')."""


def main(arguments: argparse.Namespace) -> Answer:
    """Open the model, score it and print the table."""
    arguments.overrides = [*arguments.overrides, *words_of_flags(arguments)]
    if is_asked(arguments):
        from utils.evaluate_model.answers import score_answers
        from utils.evaluate_model.evaluation import show_answers

        return show_answers(score_answers(arguments))
    if bool(arguments.run) == bool(arguments.model or arguments.adapter):
        raise UserError("give either --run (a trained run), --model (a published model) or --adapter, with its --model")
    check_server(arguments)
    if not arguments.adapter:
        return _score(arguments, arguments.run, arguments.output_dir)
    from utils.evaluate_model.adapters import TABLE, find_adapters, holds_run, score_adapters
    from utils.evaluate_model.evaluated_model import stem_of

    names, root = find_adapters(arguments.adapter), arguments.output_dir

    def score(name: str) -> Answer:
        folder = root if root is None or len(names) == 1 else str(Path(root, stem_of(name)))
        return _score(arguments, name if holds_run(name) else None, folder, adapter=name)

    if len(names) == 1:
        return score(names[0])
    return score_adapters(names, score, Path(root or "outputs", TABLE).expanduser())


def _score(
    arguments: argparse.Namespace, run: str | None, output_dir: str | None, adapter: str | None = None
) -> Answer:
    """Score a run if one is named, else a model or an adapter."""
    from utils.evaluate_model.evaluated_model import open_model, open_run
    from utils.evaluate_model.evaluation import evaluate, show_scores

    shared = arguments.sets, arguments.overrides, output_dir, Consent.of_command(arguments)
    evaluated = open_run(run, *shared) if run else open_model(arguments.model, *shared, adapter)
    if arguments.server is not None:
        from utils.runs.serving import find_served

        evaluated.served = find_served(arguments.server, arguments.served_model, evaluated.model)
    return show_scores(evaluated, evaluate(evaluated), arguments.show)


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("evaluate_model.py", DESCRIPTION)
    parser.add_argument(
        "--run",
        metavar="FOLDER",
        help="a run folder, its final_model/, a checkpoint, a merged model; hub:OWNER/NAME[@REVISION]",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="a hub name or folder of a whole model; with --adapter: its base"
    )
    parser.add_argument(
        "--adapter",
        nargs="+",
        metavar="FOLDER",
        help="adapters in peft's layout, or a pattern such as 'runs/*/final_model': each is a row of adapters.csv",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="sets",
        metavar="SET",
        help="what to score on; repeatable; default: the run's own sets",
    )
    parser.add_argument(
        "--output_dir",
        metavar="FOLDER",
        help="where results go; default: eval_<label> in the run's folder, outputs/eval_<model> for a model",
    )
    add_show(parser)
    add_answers(parser)
    add_server(parser)
    add_consent(parser)
    add_overrides(parser)
    parser.epilog = (
        "key=value arguments override the configuration, in YAML syntax:\n\n"
        "  generation.max_new_tokens=512 evaluation.max_samples=200 model.quantization=nf4 dataset.path=data/gsm8k"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
