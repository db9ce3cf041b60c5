"""`lora-ns compare RUN...`: tabulate the differences between runs, in configuration and measurements."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from utils.cli.command_line import Answer, run_cli
from utils.cli.parser import build_parser
from utils.config.run_config import find_differences, flatten
from utils.core import registry
from utils.core.terminal import build_console
from utils.modeling.consent import add_extensions_consent
from utils.results.labels import Language, is_score, scale, translate
from utils.results.record import RunRecord, require_record
from utils.run_config import load_run_config

DESCRIPTION = """Compare finished runs: settings that differ, scores with their intervals, costs.

  lora-ns compare outputs/lora outputs/full
  lora-ns compare outputs/*/ --json"""
_ABSENT = "-"
_LABELS = {
    "trainable parameters": "trainable", "peak memory (GB)": "peak_memory_gb", "training time (s)": "train_runtime",
    "status": "status",
}  # fmt: skip


def main(arguments: argparse.Namespace) -> Answer:
    """Print the table, and return it for `--json`."""
    folders, may_extend = [Path(each).expanduser() for each in arguments.runs], arguments.allow_extensions
    answer = compare_runs(folders, may_extend)
    if not arguments.json:
        first = load_run_config(folders[0] / "run.yaml", files=False, may_extend=may_extend)
        _print(answer, first.results.language)
    return answer


def compare_runs(folders: list[Path], may_extend: bool = True) -> Answer:
    """Collect what differs between runs, as rows with a value for each folder.

    `may_extend` allows running code that a run's folder contains (`extensions:`).

    Raises:
        UserError: A folder holds no finished run.
    """
    records = [require_record(folder) for folder in folders]
    written: list[dict[str, Any]] = []
    keys, chosen = set[str](), {"peft.method"}
    for folder in folders:
        with registry.temporary_folders():  # the runs may have different extensions of one name
            config = load_run_config(folder / "run.yaml", files=False, may_extend=may_extend)
            written.append(config.to_dict())
            # Comparing with the first is enough: what differs between two others differs from the first in one of them.
            keys |= find_differences(written[0], written[-1]).keys()
            # A key that only one method has is shown unless it is its default.
            chosen |= {f"peft.{key}" for key in config.peft.model_dump(exclude_defaults=True)}
    keys = {key for key in keys if not key.startswith("peft.") or ".".join(key.split(".")[:2]) in chosen}
    flat = [flatten(each) for each in written]
    measured = [_list_measured(each) for each in records]
    rows = list(dict.fromkeys(name for each in measured for name in each))
    return {
        "status": "success",
        "runs": [str(folder) for folder in folders],
        "configuration": {key: [each.get(key) for each in flat] for key in sorted(keys)},
        "measured": {name: [each.get(name) for each in measured] for name in rows},
    }


def _list_measured(record: RunRecord) -> dict[str, Any]:
    """List a record's scores with their intervals, x100 if they are shares, and its costs."""
    rows: dict[str, Any] = {"status": record.status}
    for name, value in record.metrics.items():
        if value is not None:
            bounds = [f"{scale(name, each):.2f}" for each in record.interval.get(name, ())]
            shown = f"{scale(name, value):.2f}" if is_score(name) else f"{value:.4g}"
            rows[f"{name}{' x100' if is_score(name) else ''}"] = f"{shown} [{', '.join(bounds)}]" if bounds else shown
    costs = {
        "trainable parameters": record.params.trainable,
        "peak memory (GB)": record.memory.peak_vram_gb or record.memory.peak_rss_gb,
        "training time (s)": record.time.train_runtime_s,
    }
    return rows | {name: round(value, 2) for name, value in costs.items() if value is not None}


def _print(answer: Answer, language: Language) -> None:
    from rich.table import Table

    table = Table(show_lines=False)
    table.add_column("", style="bold", overflow="fold")
    for name in answer["runs"]:
        table.add_column(name, overflow="fold")
    for part in ("configuration", "measured"):
        for key, values in answer[part].items():
            name = translate(_LABELS[key], language) if key in _LABELS else key
            shown = (translate(each, language) if key == "status" else str(each) for each in values)
            table.add_row(name, *(_ABSENT if each == "None" else each for each in shown))
        table.add_section()
    build_console().print(table)


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("lora-ns compare", DESCRIPTION)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs, the first to compare with")
    add_extensions_consent(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
