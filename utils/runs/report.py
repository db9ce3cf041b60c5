"""A run's report.html, and its curves as a picture and a table. `lora-ns report RUN` writes them again.

The curves come from the trainer's own log, which checkpoints keep, so that an interrupted and resumed run has the
curves of an uninterrupted one.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.cli.command_line import Answer, run_cli
from utils.cli.parser import build_parser
from utils.config.run_config import RunConfig
from utils.core.errors import UserError
from utils.core.json_files import find_object
from utils.core.project import as_called
from utils.core.replace_file import replace_text
from utils.modeling.consent import add_extensions_consent
from utils.results import curves, page
from utils.results.json_file import read_json
from utils.results.provenance import PROVENANCE_FILE
from utils.results.record import RESULTS_FILE, RunRecord, require_record
from utils.results.svg import render_file
from utils.run_config import load_run_config
from utils.runs.run_page import build_page, find_confusions, read_table
from utils.trainer.checkpoint_files import STATE, list_checkpoints

logger = logging.getLogger(__name__)

REPORT = "report.html"
CURVES = "curves"
DESCRIPTION = """Write a finished run's report.html and curves again, as they were written at its end.

  lora-ns report outputs/quickstart
  lora-ns report outputs/quickstart results.language=zh"""


def write_report(folder: Path, config: RunConfig, record: RunRecord, provenance: Mapping[str, Any]) -> list[Path]:
    """Write curves.csv, and curves.svg, curves.png, confusion.png and report.html if results.formats names them.

    Every file is written atomically; returns the files written.
    """
    logs, language, formats = read_logs(folder), config.results.language, config.results.formats
    charts = curves.build_charts(logs, language)
    texts = {f"{CURVES}.csv": curves.render_csv(logs)} if charts else {}
    if charts and "svg" in formats:
        texts[f"{CURVES}.svg"] = render_file(charts)
    if "html" in formats:
        texts[REPORT] = page.render_page(build_page(folder, config, record, provenance, charts))
    for name, text in texts.items():
        replace_text(folder / name, text, errors="backslashreplace")
    written = [folder / name for name in texts]
    if "png" in formats:
        from utils.results.png import find_chinese_font, write_charts, write_confusion

        if charts and language == "zh" and find_chinese_font() is None:
            logger.warning("curves.png: no font with Chinese characters is installed; it is written in English")
            charts = curves.build_charts(logs)
        written += [write_charts(folder / f"{CURVES}.png", charts)] if charts else []
        written += [write_confusion(each.with_suffix(".png"), read_table(each)) for each in find_confusions(folder)]
    return written


def read_logs(run: Path) -> list[dict[str, Any]]:
    """Read the trainer's log, as of the end of training or of the last checkpoint."""
    files = [run / STATE, *(each / STATE for each in list_checkpoints(run)[-1:])]
    logs = max(map(find_object, files), key=_read_step).get("log_history")
    return [entry for entry in logs if isinstance(entry, dict)] if isinstance(logs, list) else []


def _read_step(state: Mapping[str, Any]) -> int:
    step = state.get("global_step")
    return step if isinstance(step, int) else -1


def main(arguments: argparse.Namespace) -> Answer:
    """Rewrite a run's report, and list the files."""
    folder = Path(arguments.run).expanduser()
    stored = find_object(folder / RESULTS_FILE)
    if "suite" in stored:
        script = as_called("python benchmark.py")
        raise UserError(f"{folder}: a suite; {script} --config {stored.get('file')} --report writes its report again")
    record = require_record(folder)
    overrides = ["results.formats=[html,svg]", *arguments.overrides]  # regardless of the formats of the run itself
    config = load_run_config(folder / "run.yaml", overrides, files=False, may_extend=arguments.allow_extensions)
    written = write_report(folder, config, record, read_json(folder / PROVENANCE_FILE) or {})
    if not arguments.json:
        sys.stdout.write("".join(f"{path}\n" for path in written))
    return {"status": "success", "files": [str(path) for path in written]}


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("lora-ns report", DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    add_extensions_consent(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as results.formats=[html,png]")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
