"""`lora-ns plan FILE`: the memory, steps and time of a run before it is trained; `train.py --plan` does the same."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from utils.cli.command_line import Answer, run_cli
from utils.cli.parser import add_config, add_overrides, build_parser, read_number
from utils.planning.cards import CARDS

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig

DESCRIPTION = """Plan one run from the model's config.json, without training: parameters, steps, tokens, memory by part.

  lora-ns plan quickstart_sft
  lora-ns plan my_run.yaml --card rtx4090 model.quantization=nf4
  lora-ns plan my_run.yaml --probe"""


def main(arguments: argparse.Namespace) -> Answer:
    """Read the file and print the plan of its run."""
    from utils.run_config import load_run_config
    from utils.runs.summary import announce_run

    config = load_run_config(arguments.config, arguments.overrides)
    announce_run(config)
    return plan_and_show(config, arguments)


def plan_and_show(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    """Print the plan of a run for the requested card and rate."""
    from utils.planning import plan

    rate = plan.measure_rate(config) if arguments.probe else arguments.rate
    return plan.show_plan(plan.plan_run(config), config, arguments.card, rate)


def add_plan_options(parser: argparse.ArgumentParser, first: str = "") -> None:
    """Add the options of a plan; `first` is put before the help of each."""
    card = f"{first}say what fits on it: {', '.join(CARDS)}"
    parser.add_argument("--card", choices=CARDS, metavar="NAME", help=card)
    parser.add_argument("--probe", action="store_true", help=f"{first}train a few steps to estimate the time")
    parser.add_argument("--rate", type=read_number, metavar="N", help=f"{first}the time at N tokens per second")


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("lora-ns plan", DESCRIPTION)
    add_config(parser, "the run's YAML file")
    add_plan_options(parser)
    add_overrides(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
