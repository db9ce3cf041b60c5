"""Train the run that a YAML file describes, score it, export it and verify the export."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from utils.cli.command_line import Answer, run_cli
from utils.cli.gpus import select_gpus
from utils.cli.parser import add_config, add_overrides, add_show, build_parser, positive
from utils.core.errors import UserError
from utils.core.signals import handling_signals
from utils.planning.command import add_plan_options, plan_and_show

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.results.record import RunRecord
    from utils.runs.opening import RunFolder

DESCRIPTION = """Train one run.

  python train.py --config configs/quickstart.yaml
  python train.py --config configs/glue_mrpc.yaml training.learning_rate=1e-4 peft.lora_r=16
  python train.py --config configs/glue_mrpc.yaml --gpu 0,1
  accelerate launch train.py --config configs/glue_mrpc.yaml"""


def main(arguments: argparse.Namespace) -> Answer:
    """Train one run, from the configuration file to the verified export."""
    started = time.monotonic()
    select_gpus(arguments.gpu, __file__, sys.argv[1:])
    with handling_signals():
        return run_training(arguments, started)


def run_training(arguments: argparse.Namespace, started: float) -> Answer:
    """Read the configuration, train, preview or plan the run, and show the result."""
    from utils.run_config import load_run_config
    from utils.runs.push import push_run
    from utils.runs.summary import announce_run, show_result
    from utils.trainer.launch import find_launcher_file, require_launched

    _check_options(arguments)
    require_launched()
    find_launcher_file()
    unpushed = ["training.push_to_hub=false"] if arguments.push_dry_run else []
    config = load_run_config(arguments.config, [*arguments.overrides, *unpushed])
    announce_run(config)
    if arguments.preview is not None:
        return show_preview(config, arguments.preview)
    if arguments.plan:
        return plan_and_show(config, arguments)
    folder, record = train(config, arguments.resume, arguments.overwrite, started, arguments.profile)
    answer = show_result(folder, config, record, folder.finished is not None, arguments.show)
    return answer | push_run(folder.path, config, record, arguments.push_dry_run)


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise an error for options of --plan given without it, before they start a training run."""
    given = {"--card": arguments.card, "--rate": arguments.rate, "--probe": arguments.probe}
    if not arguments.plan and (alone := [flag for flag, value in given.items() if value]):
        raise UserError(f"{' and '.join(alone)} belong to --plan; give that too, or leave them out")


def train(
    config: RunConfig, resume: str | None, overwrite: bool, started: float, profile: bool = False
) -> tuple[RunFolder, RunRecord]:
    """Open the output folder and run in it; if the same configuration already finished there, return its record."""
    from utils.run_config.base_rules import require_fitting_base
    from utils.run_config.machine import require_machine
    from utils.runs.opening import open_run_folder
    from utils.tasks.rehearsal import rehearse
    from utils.trainer.failures import explain_full_disk
    from utils.trainer.processes import destroy_process_group_on_exit
    from utils.trainer.tracking import report_run

    require_machine(config)
    with config.locating_errors(), open_run_folder(config, resume, overwrite) as folder:
        if folder.finished is not None:
            return folder, folder.finished
        require_fitting_base(config)
        with destroy_process_group_on_exit(), explain_full_disk(folder.path):
            rehearse(config)
            record = run(config, folder, started, profile)
            report_run(config, record)
            return folder, record


def run(config: RunConfig, folder: RunFolder, started: float, profile: bool = False) -> RunRecord:
    """Train, score and export the model, and verify that the export is the trained model."""
    from transformers import set_seed

    from utils.modeling.base_model import load_base_model
    from utils.modeling.consent import Consent
    from utils.modeling.sizes import count_parameters
    from utils.modeling.source import resolved_commit
    from utils.modeling.tokenizer import load_tokenizer
    from utils.runs import export
    from utils.runs.probe_record import check_export
    from utils.runs.summary import announce_parameters
    from utils.tasks.preparing import attach_adapter
    from utils.tasks.task import open_task
    from utils.trainer.failures import guard_training
    from utils.trainer.launch import is_sharded
    from utils.trainer.processes import main_process_first
    from utils.trainer.progress import measure_training

    with export.Recording(folder, config) as recording:
        set_seed(config.seed)
        task = open_task(config)
        tokenizer = load_tokenizer(config.model)
        with main_process_first(config.training.output_dir):
            data = task.prepare_data(tokenizer)
        model = load_base_model(
            config.model, tokenizer, task.describe_head(data), config.seed, is_sharded(config.arguments)
        )
        export.write_data_facts(folder, config, data)
        model = attach_adapter(model, config, tokenizer, data)
        counts, commit = count_parameters(model), resolved_commit(model)
        announce_parameters(counts)
        trainer = task.build_trainer(model, tokenizer, data)
        measuring = measure_training(trainer, started, profile)
        del model  # the trainer holds the only reference: check_export releases it

        with guard_training(trainer, config.length_key):
            if training := config.arguments.get("do_train", True):
                trainer.train(resume_from_checkpoint=folder.resume_from)
                trainer.save_state()
            outcome = task.score(trainer, data, recording.record, counts, measuring)
        export.write_submissions(folder, data, outcome.predicted)
        if training:
            export.export_model(folder, config, trainer, tokenizer, data)
            outcome.check = check_export(folder.path, task, trainer, data, Consent.of_config(config))
        outcome.total_s = time.monotonic() - started
        return export.write_results(folder, config, outcome, recording.provenance(data, commit))


def show_preview(config: RunConfig, count: int) -> Answer:
    """Print the first training rows as the model will see them."""
    from utils.modeling.tokenizer import load_tokenizer
    from utils.tasks.task import open_task

    tokenizer = load_tokenizer(config.model)
    task = open_task(config)
    return task.preview(task.prepare_data(tokenizer), tokenizer, count)


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("train.py", DESCRIPTION)
    add_config(parser, "the run's YAML file")
    add_show(parser)
    parser.add_argument("--gpu", metavar="I,J", help="use these GPUs, one process for each")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="last",
        metavar="CHECKPOINT",
        help="continue from the last complete checkpoint, or from this one (checkpoint-500)",
    )
    parser.add_argument(
        "--resume_from_checkpoint",
        dest="resume",
        metavar="CHECKPOINT",
        help="the same as --resume CHECKPOINT; either takes a path too",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start over; an existing output folder is renamed, not deleted",
    )
    parser.add_argument(
        "--preview",
        type=positive,
        metavar="N",
        help="print the first N rows as the model will see them, with the trained tokens marked, and stop",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print parameters, steps, tokens and memory by part, from the model's config.json, and stop",
    )
    add_plan_options(parser, "with --plan, ")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="show where the time goes, and write it to the run's folder with a trace of three steps",
    )
    parser.add_argument(
        "--push_dry_run",
        action="store_true",
        help="show which files training.push_to_hub would push after the run, without pushing them",
    )
    add_overrides(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
