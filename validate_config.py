"""Check configuration files (runs, suites, accelerate, DeepSpeed) without loading anything."""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TextIO

from utils.cli.command_line import Answer, run_cli
from utils.cli.parser import add_overrides, build_parser
from utils.core.errors import EXIT_FAILED, UserError
from utils.core.project import ROOT, as_called, find_config

if TYPE_CHECKING:
    from utils.run_config.load import Check

DESCRIPTION = """Check configuration files in numbered steps, without importing an ML library.

  python validate_config.py configs/quickstart.yaml
  python validate_config.py configs/benchmarks/quickstart.yaml      a suite: each of its runs
  python validate_config.py --all
  python validate_config.py configs/quickstart.yaml --show training.learning_rate=1e-4
  python validate_config.py configs/quickstart.yaml --data                      its rows too
  python validate_config.py --schema > .schema.json"""


def main(arguments: argparse.Namespace) -> Answer:
    """Check the files and sum up; exit code 1 if one fails."""
    gc.disable()  # saves a tenth of the time; all that is read stays until the end
    if arguments.schema:
        from utils.run_config.reference import build_schema

        schema = build_schema()
        if not arguments.json:
            print(json.dumps(schema, indent=2))
        return schema
    files = _find_files(arguments)
    reports = {str(file): _check(file, arguments) for file in files}
    failed = [file for file, checks in reports.items() if any(check.problems for check in checks)]
    summary = f"\nPASS {len(files) - len(failed)}  FAIL {len(failed)}" + "".join(f"\n  FAIL {file}" for file in failed)
    print(summary, file=_report_stream(arguments))
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
    files = [find_config(name) for name in arguments.files]
    if arguments.all is not None:
        own = Path(arguments.all or "configs")
        folder = own if arguments.all or own.is_dir() else ROOT / "configs"
        if not folder.is_dir():
            raise UserError(f"--all {folder}: no such folder")
        found = (path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml", ".json"))
        files += sorted(path for path in found if not re.search(r"(^|/)\.", path.relative_to(folder).as_posix()))
    if not files:
        raise UserError("name a file, or --all for every file in configs/")
    return files


def _check(file: Path, arguments: argparse.Namespace) -> list[Check]:
    """Check one file by its kind and print the steps; with --all, only those of files with findings."""
    from utils.run_config.kinds import find_kind
    from utils.run_config.launcher_files import check_accelerate, check_deepspeed

    kind = find_kind(file)
    if kind == "run":
        findings = _check_run(file, arguments)
    elif kind == "suite":
        findings = _check_suite(file, arguments)
    else:
        findings = _Findings(check_accelerate(file) if kind == "accelerate" else check_deepspeed(file))
    checks, notices, shown, language = findings
    is_silent = arguments.all is not None and not notices and not any(each.problems or each.warnings for each in checks)
    _print_checks(f"{file} ({kind})", [] if is_silent else checks, notices, _report_stream(arguments), language)
    if arguments.show:
        print(shown, end="")
    return checks


class _Findings(NamedTuple):
    """Findings in one file."""

    checks: list[Check]
    notices: Sequence[str] = ()
    shown: str = ""
    """Output of --show."""
    language: Literal["en", "zh"] = "en"


def _check_run(file: Path, arguments: argparse.Namespace) -> _Findings:
    from utils.run_config.load import Check, check_machine, inspect_run_config
    from utils.tasks.rehearsal import check_rows

    inspection = inspect_run_config(file, arguments.overrides)
    config = inspection.config
    if config is None:
        return _Findings(inspection.checks, language=inspection.language)
    checks = [*inspection.checks, check_machine(config)]
    if arguments.data:
        checks.append(Check("rows", *check_rows(config)))
    shown = config.to_yaml() if arguments.show else ""
    return _Findings(checks, config.notices, shown, inspection.language)


def _check_suite(file: Path, arguments: argparse.Namespace) -> _Findings:
    from utils.benchmark.search import inspect_suite
    from utils.run_config.load import MACHINE, Check

    checks, plan = inspect_suite(file, arguments.overrides)
    if plan is None:
        return _Findings(checks)
    names = "".join(f"{run.name}\n" for run in plan.runs)
    checks.append(Check(MACHINE, warnings=plan.unmet))
    unread = ["--data reads the rows of run files only"] if arguments.data and arguments.all is None else []
    return _Findings(checks, [*plan.notices, *unread], names, plan.suite.section.results.language)


def _report_stream(arguments: argparse.Namespace) -> TextIO:
    """Keep standard output for the resolved file with --show, and send the report to standard error."""
    return sys.stderr if arguments.show else sys.stdout


def _print_checks(
    title: str, checks: list[Check], notices: Sequence[str], stream: TextIO, language: Literal["en", "zh"]
) -> None:
    from utils.results.labels import translate
    from utils.results.sentences import phrase
    from utils.run_config.load import MACHINE

    print(title if checks else f"{title}: {translate('ok', language)}", file=stream)
    for number, check in enumerate(checks, start=1):
        named = phrase(check.title, language, num=check.num)
        ended = translate("FAIL" if check.problems else "ok", language)
        print(f"  [{number}/{len(checks)}] {named}: {ended}", file=stream)
        word = translate("warning_here" if check.title == MACHINE else "warning", language)
        for line in (*check.problems, *(f"{word}: {warning}" for warning in check.warnings)):
            print(as_called(f"        {line}"), file=stream)
    for notice in notices:
        print(as_called(f"        {translate('note', language)}: {notice}"), file=stream)


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("validate_config.py", DESCRIPTION)
    parser.add_argument("files", nargs="*", metavar="FILE", help="configuration files")
    parser.add_argument(
        "--all",
        nargs="?",
        const="",
        metavar="DIR",
        help="check every file below DIR (default: configs/ here, else the shipped ones)",
    )
    parser.add_argument(
        "--show",
        action="store_true",
        help="print the resolved file (of a suite: its runs' names); the report goes to standard error",
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of run files, for editors")
    parser.add_argument(
        "--data",
        action="store_true",
        help="read the rows of run files too: columns, splits, labels and formats; no model is loaded",
    )
    add_overrides(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
