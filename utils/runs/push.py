"""`lora-ns push RUN NAME`: choose, show and push the files of a run or a merged model to the hub."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from utils.adapters.saved_adapter import ADAPTER_CONFIG
from utils.cli.command_line import Answer, run_cli
from utils.cli.parser import build_parser
from utils.config.run_config import EXTENSIONS, RunConfig
from utils.config.sections.model import is_local
from utils.config.sections.training import explain_pattern
from utils.config.yaml_text import dump_yaml, read_document
from utils.core.errors import UserError
from utils.core.json_files import load_object
from utils.core.logs import is_main_process
from utils.modeling.consent import add_extensions_consent
from utils.results.record import RESULTS_FILE, RunRecord, read_record
from utils.run_config import load_run_config
from utils.runs.hub import Push, require_repository_name, send
from utils.runs.model_card import CARD, write_card
from utils.runs.open_model import MERGED_RUN

logger = logging.getLogger(__name__)

DESCRIPTION = """Push a finished run, or a merged model, to the hub: model, card, tokenizer and results.json.

  lora-ns push outputs/quickstart me/quickstart --dry-run
  lora-ns push outputs/gsm8k me/gsm8k --include 'eval_*/predictions.jsonl'
  lora-ns push merged/gsm8k me/gsm8k-merged --public

The repository is private unless --public is given. No rows, no paths of this machine and no provenance go with it
unless --include names them. `--run hub:me/quickstart` of the other commands reads it back."""

_PATH_KEYS = {
    ADAPTER_CONFIG: "base_model_name_or_path",
    "config.json": "_name_or_path",
    "tokenizer_config.json": "name_or_path",
}
"""Keys in a model's files that may have a local path."""
_ROWS, _PROVENANCE = "rows and answers", "provenance: paths, commands, hardware"
_WITHHELD = (
    ("checkpoint-*", "a checkpoint, with the state of its optimizer"),
    ("best_model", "a link to a checkpoint"),
    ("*_results.json", "figures that results.json has"),
    ("eval_*", _ROWS),
    ("retention", _ROWS),
    ("predictions*", _ROWS),
    ("submission", _ROWS),
    ("probe_rows.jsonl", "rows"),
    ("provenance.json", _PROVENANCE),
    ("*_report.json", _PROVENANCE),
    ("inputs.json", "provenance: fingerprints of the rows"),
    (RESULTS_FILE, "figures; pushed without paths and rows where the run has finished"),
    ("run.yaml", "paths of this machine; the model's own copy goes without them"),
    ("results.xlsx", "paths of this machine"),
    ("report.html", "rows, and paths of this machine"),
    ("trainer_state.json", "paths of this machine"),
    ("logs", "the log of the training"),
    (EXTENSIONS, f"your plug-ins' code, which reading the run needs; --include '{EXTENSIONS}/**/*' adds it"),
)
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def main(arguments: argparse.Namespace) -> Answer:
    """Show what is pushed and what is not; push it unless it is a dry run."""
    path = Path(arguments.run).expanduser()
    require_repository_name(arguments.name)
    private, may_extend = not arguments.public, arguments.allow_extensions
    push = plan_push(path, arguments.name, private, arguments.revision, arguments.include, may_extend)
    pushed = {**push.to_dict(), "dry_run": arguments.dry_run}
    sys.stdout.write("\n".join(describe(push, arguments.dry_run)) + "\n")
    if not arguments.dry_run:
        pushed["url"], pushed["repo"] = send(push, str(path), "give --public")
        at = f"@{push.revision}" if push.revision else ""
        sys.stdout.write(f"pushed: {pushed['url']}\nread it back by --run hub:{pushed['repo']}{at}\n")
    return {"status": "success", "pushed": pushed}


def push_run(path: Path, config: RunConfig, record: RunRecord, dry_run: bool) -> dict[str, Any]:
    """Push a run that has just ended if its file says so, or show offline what would be pushed.

    Returns the push for `--json`; empty if nothing is pushed.

    Raises:
        PushError: The hub rejected the push, or cannot be reached.
    """
    arguments = config.arguments
    if not is_main_process() or not (dry_run or arguments.get("push_to_hub")):
        return {}
    if record.status != "success":
        logger.warning("%s is not pushed: its status is %s", path, record.status)
        return {}
    repo = str(arguments.get("hub_model_id") or path.resolve().name)
    private = arguments.get("hub_private_repo") is not False
    wanted = config.training.hub_files
    there = [each for each in wanted if any(map(Path.is_file, path.glob(each)))]
    for each in set(wanted) - set(there):
        logger.warning("training.hub_files: %s names no file in %s", each, path)
    push = plan_push(path, repo, private, arguments.get("hub_revision"), there)
    logger.info("%s", "\n".join(describe(push, dry_run)))
    pushed = {**push.to_dict(), "dry_run": dry_run}
    if not dry_run:
        pushed["url"], pushed["repo"] = send(push, str(path), "set training.hub_private_repo: false")
        logger.info("pushed: %s", pushed["url"])
    return {"pushed": pushed}


def plan_push(
    path: Path, repo: str, private: bool, revision: str | None, include: list[str], may_extend: bool = False
) -> Push:
    """Choose the files to push: the model's, results.json, and those that `include` matches, as patterns in the folder.

    `may_extend` allows running code that the run's folder contains (`extensions:`), to write a card that it lacks.

    Raises:
        UserError: The folder holds no finished model, or a pattern matches nothing.
    """
    model = _find_model(path)
    run = next((each for each in (path, path.parent) if (each / RESULTS_FILE).is_file()), path)
    record = read_record(run)
    if record is not None and record.status != "success":
        raise UserError(f"{path}: is not finished (its status is {record.status}); train it to its end first")
    if record is not None and model.name == "final_model" and not (model / CARD).is_file():  # of an earlier version
        write_card(model, load_run_config(run / "run.yaml", files=False, may_extend=may_extend), record)
    files: dict[str, Path | bytes] = {}
    withheld: dict[str, str] = {}
    for file in sorted(each for each in model.rglob("*") if each.is_file()):
        name = file.relative_to(model).as_posix()
        if reason := _find_objection(file, name, model):
            withheld[name] = reason
        else:
            files[name] = _without_paths(file)
    if record is not None:
        files[RESULTS_FILE] = _write_figures(record)
    for pattern in include:
        files |= dict(_include(path, pattern))
    withheld |= _list_beside(path, model, files)
    kept = {name: why for name, why in withheld.items() if name not in files}
    return Push(repo, private, revision, dict(sorted(files.items())), kept)


def describe(push: Push, dry_run: bool) -> Iterator[str]:
    """Yield lines that list what is pushed and what is not."""
    seen, at = "private" if push.private else "public", f" (branch {push.revision})" if push.revision else ""
    yield f"{'would push' if dry_run else 'pushing'} to the {seen} repository {push.repo}{at}:"
    width = max(map(len, (*push.files, *push.withheld)))
    for name, size in push.sizes.items():
        yield f"  {name:<{width}}  {size:>13,} bytes"
    yield f"  {'in all':<{width}}  {sum(push.sizes.values()):>13,} bytes"
    if push.withheld:
        yield "not pushed (--include PATTERN adds matching files):"
    for name, why in push.withheld.items():
        yield f"  {name:<{width}}  {why}"


def _find_model(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give the training.output_dir of a run, or a merged model")
    if (path / "complete.json").is_file():
        raise UserError(f"{path}: is a checkpoint, which has not been verified; push the run")
    for each in (path / "final_model", path):
        if any((each / name).is_file() for name in (ADAPTER_CONFIG, "config.json")) or any(each.glob("*.gguf")):
            return each
    hint = "finish it with train.py --resume" if (path / "run.yaml").is_file() else "name a run, or a merged model"
    raise UserError(f"{path}: has no final_model; {hint}")


def _find_objection(file: Path, name: str, model: Path) -> str | None:
    """Return why a file beside the model is not pushed by default; None: it is."""
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(model)):
        return "a link out of the folder"
    if file.suffix in _PICKLED:
        return "pickled: loading it runs code"
    if name.startswith("."):
        return "hidden"
    kept = {"run.yaml", MERGED_RUN}
    return None if name in kept else _find_reason(name.partition("/")[0])


def _find_reason(name: str) -> str | None:
    return next((why for pattern, why in _WITHHELD if fnmatch(name, pattern)), None)


def _list_beside(path: Path, model: Path, files: dict[str, Path | bytes]) -> dict[str, str]:
    """Return why the other files of the run's folder are not pushed, by name."""
    found = {}
    for each in sorted(path.iterdir()) if path != model else ():
        whole = each.is_file() and each.name in files
        if each != model and not whole and not each.name.startswith("."):
            found[f"{each.name}/" if each.is_dir() else each.name] = _find_reason(each.name) or "not needed to use it"
    return found


def _include(path: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    root = Path(os.path.realpath(path))
    if wrong := explain_pattern(pattern):
        raise UserError(f"--include: {wrong}")
    found = [each for each in sorted(path.glob(pattern)) if each.is_file()]
    if not found:
        raise UserError(f"--include {pattern}: names no file in {path}")
    for each in found:
        if not Path(os.path.realpath(each)).is_relative_to(root):
            raise UserError(f"--include {pattern}: {each} is a link out of the folder; copy the file there")
        yield each.relative_to(path).as_posix(), each


def _without_paths(file: Path) -> Path | bytes:
    """Return a model's file, or its rewritten content if it contains a local path."""
    if file.name in ("run.yaml", MERGED_RUN):
        return dump_yaml(_without_folders(read_document(file).data)).encode()
    if key := _PATH_KEYS.get(file.name):
        content = load_object(file)
        short = _without_folders(content.get(key))
        if short != content.get(key):
            return json.dumps({**content, key: short}, indent=2, ensure_ascii=False).encode()
    return file


def _write_figures(record: RunRecord) -> bytes:
    """Write results.json without what may contain rows or paths: examples of bad rows, warnings, files."""
    figures = {name: value for name, value in record.to_json().items() if name not in (*record.extra, "warnings")}
    return json.dumps(_without_folders(figures), indent=2, ensure_ascii=False).encode()


def _without_folders(value: Any) -> Any:
    """Reduce local paths to their last part: whoever loads the model uses their own.

    It remains a path: a bare `base` would be looked up on the hub, where it may be somebody else's.
    """
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    if not isinstance(value, str) or "/" not in value or "\n" in value:
        return value
    return f"./{Path(value).name}" if is_local(value) or Path(value).exists() else value


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("lora-ns push", DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a merged model's")
    parser.add_argument("name", metavar="NAME", help="the repository: OWNER/NAME, or NAME among your own")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="list the files and push nothing, offline")
    parser.add_argument("--public", action="store_true", help="let the repository be public")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch; default: main")
    include = "push files of the folder too, such as 'eval_*/predictions.jsonl'; repeatable"
    add_extensions_consent(parser)
    parser.add_argument("--include", action="append", default=[], metavar="PATTERN", help=include)
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
