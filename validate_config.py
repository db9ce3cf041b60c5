"""Checks configuration files before anything is loaded: run files, accelerate's and DeepSpeed's."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from utils.doors import Answer, add_overrides, build_parser, open_door
from utils.errors import EXIT_FAILED, UserError

if TYPE_CHECKING:
    from utils.run_config.inspection import Check

DESCRIPTION = """Check configuration files, each by numbered steps; no ML library is imported.

  python validate_config.py configs/quickstart.yaml
  python validate_config.py --all
  python validate_config.py configs/quickstart.yaml --show training.learning_rate=1e-4
  python validate_config.py --schema > .schema.json"""


def main(arguments: argparse.Namespace) -> Answer:
    """Check the files and sum up; exit code 1 when one fails."""
    if arguments.schema:
        from utils.run_config.schema import build_schema

        schema = build_schema()
        if not arguments.json:
            print(json.dumps(schema, indent=2))
        return schema
    files = _find_files(arguments)
    reports = {str(file): _check(file, arguments) for file in files}
    failed = [file for file, checks in reports.items() if any(check.problems for check in checks)]
    print(f"\nPASS {len(files) - len(failed)}  FAIL {len(failed)}" + "".join(f"\n  FAIL {file}" for file in failed))
    return {
        "files": {
            file: {
                "pass": file not in failed,
                "problems": [vars(problem) for check in checks for problem in check.problems],
                "warnings": [warning for check in checks for warning in check.warnings],
            }
            for file, checks in reports.items()
        },
        "exit_code": EXIT_FAILED if failed else 0,
    }


def _find_files(arguments: argparse.Namespace) -> list[Path]:
    files = [Path(name) for name in arguments.files]
    if arguments.all is not None:
        folder = Path(arguments.all)
        if not folder.is_dir():
            raise UserError(f"--all {folder}: no such folder")
        files += sorted(path for path in folder.rglob("[!.]*") if path.suffix in (".yaml", ".yml", ".json"))
    if not files:
        raise UserError("name a file, or --all for every file in configs/")
    return files


def _check(file: Path, arguments: argparse.Namespace) -> list[Check]:
    """Check one file as what it is and print its numbered steps."""
    from utils.run_config.inspection import inspect_run_config
    from utils.run_config.kinds import check_accelerate, check_deepspeed, find_kind

    kind, config = find_kind(file), None
    if kind == "run":
        inspection = inspect_run_config(file, arguments.overrides)
        checks, config = inspection.checks, inspection.config
    else:
        checks = check_accelerate(file) if kind == "accelerate" else check_deepspeed(file)
    print(f"{file} ({kind})")
    for number, check in enumerate(checks, start=1):
        print(f"  [{number}/{len(checks)}] {check.title}: {'FAIL' if check.problems else 'ok'}")
        for line in (*check.problems, *(f"warning: {warning}" for warning in check.warnings)):
            print(f"        {line}")
    for notice in config.notices if config else ():
        print(f"        note: {notice}")
    if config and arguments.show:
        print(config.to_yaml())
    return checks


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("validate_config.py", DESCRIPTION)
    parser.add_argument("files", nargs="*", metavar="FILE", help="configuration files")
    parser.add_argument(
        "--all", nargs="?", const="configs", metavar="DIR", help="every file below DIR (default: configs)"
    )
    parser.add_argument("--show", action="store_true", help="print the resolved file")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of run files, for editors")
    add_overrides(parser)
    return parser


if __name__ == "__main__":
    sys.exit(open_door(main, build(), sys.argv[1:]))
