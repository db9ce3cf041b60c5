"""Run a suite of tasks, methods and seeds, one process per run, and tabulate the results."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from utils.cli.command_line import Answer, run_cli
from utils.cli.parser import (
    add_config,
    add_overrides,
    build_parser,
    positive,
    read_names,
    read_number,
    read_seeds,
    read_shard,
)
from utils.core.errors import UserError

if TYPE_CHECKING:
    from utils.benchmark.choices import Choices
    from utils.benchmark.plan import Plan

DESCRIPTION = """Run a suite of runs and put their results in one table.

  python benchmark.py --config configs/benchmarks/quickstart.yaml
  python benchmark.py --config configs/benchmarks/glue_methods.yaml --dry-run
  python benchmark.py --config configs/benchmarks/glue_methods.yaml --task rte,mrpc --seeds 1,2,3 --jobs 2
  python benchmark.py --config configs/benchmarks/glue_qst_llama3.yaml --model FOLDER --epochs 1
  python benchmark.py --config configs/benchmarks/glue_methods.yaml --shard 3/16     on every machine of a cluster
  python benchmark.py --config configs/benchmarks/glue_methods.yaml --report         the table from the finished runs

Finished runs are skipped and stopped ones resumed, so after a crash repeat the same command."""


def main(arguments: argparse.Namespace) -> Answer:
    """Plan the suite, check every run, then run or report it."""
    given = [name for name in ("dry_run", "report", "status", "single") if getattr(arguments, name)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(f'--{name}' for name in given)} do different things; give one of them")
    from utils.benchmark.dry_run import announce_plan, show_plan
    from utils.benchmark.launchers.array_job import load_scheduler, write_script
    from utils.benchmark.search import plan_suite
    from utils.benchmark.suite_reader import read_suite

    suite, choices = read_suite(arguments.config, arguments.launcher), _read_choices(arguments)
    plan = plan_suite(suite, choices, files=not (arguments.report or arguments.status))
    if not arguments.single:
        announce_plan(plan)
    if arguments.dry_run:
        scheduler = load_scheduler(plan)
        return show_plan(plan, write_script(plan, _repeated_arguments(), scheduler) if scheduler else "")
    return _work(arguments, plan, choices)


def _read_choices(arguments: argparse.Namespace) -> Choices:
    from utils.benchmark.choices import Choices

    if arguments.single:
        arguments.only = (arguments.single,)
    names = ("tasks", "methods", "only", "seeds", "epochs", "model", "output_dir", "shard", "launch")
    return Choices(**{name: getattr(arguments, name) for name in names}, overrides=tuple(arguments.overrides))


def _work(arguments: argparse.Namespace, plan: Plan, choices: Choices) -> Answer:
    """Report, show the status of, submit or run the planned suite."""
    from utils.benchmark.launchers.array_job import launch_array, load_scheduler
    from utils.benchmark.runner import SuiteOptions, report_suite, run_single, run_suite, show_status
    from utils.benchmark.search import plan_suite

    if arguments.report:
        return report_suite(plan, arguments.submission)
    if arguments.status:
        return show_status(plan)
    options = SuiteOptions(arguments.jobs, arguments.retry, arguments.shard, arguments.submission, arguments.fork)
    if arguments.single:
        return run_single(plan, options)
    if scheduler := load_scheduler(plan):
        return launch_array(plan, arguments.retry, _repeated_arguments(), scheduler)
    answer, waited = run_suite(plan, options), plan.pending
    while waited and answer["status"] != "interrupted":
        plan = plan_suite(plan.suite, choices)
        if plan.pending == waited:
            break  # the remaining searches have no result
        answer, waited = run_suite(plan, options), plan.pending
    return answer


def _repeated_arguments() -> list[str]:
    """Return the arguments of this command line that its jobs repeat."""
    return [word for word in sys.argv[1:] if word not in ("--dry-run", "--dry_run", "--json")]


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("benchmark.py", DESCRIPTION)
    add = parser.add_argument
    add_config(parser, "the suite's YAML file")
    add("--dry-run", "--dry_run", action="store_true", help="print the plan and the trainable parameters, and stop")
    add("--report", action="store_true", help="write the reports from the folder's finished runs, and stop")
    add("--submission", action="store_true", help="collect the GLUE server's files of all tasks into one zip")
    add("--task", type=read_names, default=(), dest="tasks", metavar="A,B", help="only these tasks")
    add("--method", type=read_names, default=(), dest="methods", metavar="A,B", help="only these methods")
    add("--only", type=read_names, default=(), metavar="PATTERN", help="only runs whose names match: 'rte-*-s1'")
    add("--seeds", "--seed", type=read_seeds, default=(), metavar="1,2,3", help="these seeds instead of the suite's")
    add("--epochs", type=read_number, metavar="N", help="short for training.num_train_epochs=N")
    add("--model", metavar="NAME", help="short for model.name_or_path=NAME")
    add("--output_dir", metavar="FOLDER", help="the suite's folder")
    add("--jobs", type=positive, metavar="N", help="runs at the same time; default: one per visible GPU, or one")
    add("--retry", type=positive, nargs="?", const=1, default=0, metavar="N", help="try failed runs again, N times (1)")
    add("--launcher", metavar="NAME", help="run the suite here (local), or as an array of slurm or pbs")
    add("--status", action="store_true", help="show the status of every run, in its folder and in the queue, and stop")
    add("--single", metavar="RUN", help="work on this run alone, as each job of an array does")
    add("--launch", metavar="COMMAND", help="start each run's processes with this: 'torchrun --nproc_per_node 2'")
    add("--shard", type=read_shard, metavar="I/N", help="work on the I-th of N parts; the folder is shared")
    no_fork = "let each run import the libraries itself instead of forking; always so outside Linux"
    add("--no_fork", action="store_false", dest="fork", help=no_fork)
    add_overrides(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
