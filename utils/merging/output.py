"""What a merge leaves: a folder that has its name only when it is proved, and the table of the proof."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from utils.core.errors import UserError
from utils.runs.model_card import Made

if TYPE_CHECKING:
    from rich.console import RenderableType

logger = logging.getLogger(__name__)

Row: TypeAlias = tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]
"""Of the table: what it is about, how far it is from the first one, its scores."""
REPORT_FILE = "merge_report.json"
"""The proof; what holds it is a merged model."""
_SPARE = 64 * 2**20  # tokenizer, configuration, report


def check_output(name: str, overwrite: bool, needed: Iterable[Path]) -> Path:
    """Check what can be checked of the output folder, which may be missing, before anything is loaded.

    `needed` are folders that are read, which renaming the output must not take away: the run, the adapter, the base.
    """
    output = Path(name).expanduser().absolute()
    if os.path.exists(output) and not output.is_dir():
        raise UserError(f"{name}: is a file; name a folder")
    for each in needed:
        if output.resolve() in (each.resolve(), *each.resolve().parents):
            raise UserError(f"{name}: holds what is to be merged; name another output folder")
    if os.path.isdir(output) and any(output.iterdir()) and not overwrite:
        raise UserError(f"{name}: is not empty; name another folder, or rename this one away by --overwrite")
    return output


@contextmanager
def open_output(output: Path) -> Iterator[Path]:
    """Give a folder beside the output to write to; it gets the output's name when all went well, else it is removed.

    A kill in the middle leaves the folder `<output>.partial`, which the next call removes. What is under the
    output's name by then is renamed, not deleted.
    """
    partial = output.with_name(f"{output.name}.partial")
    new = [each for each in output.parents if not each.exists()]
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{partial}: cannot be made: {error.strerror}") from None
    try:
        yield partial
        for each in filter(Path.is_file, partial.rglob("*")):
            each.chmod(partial.stat().st_mode & 0o666)  # safetensors makes weights for their owner alone
        if output.is_dir() and any(output.iterdir()):
            _rename_away(output)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # one that holds the output stays, and those above it
            for each in new:
                each.rmdir()


def require_space(folder: Path, num_bytes: int) -> None:
    """Refuse to write where the disk has no room for so many bytes of weights."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes + _SPARE:
        needed, there = (f"{each / 2**30:.1f} GiB" for each in (num_bytes + _SPARE, free))
        raise UserError(f"{folder.parent}: the merged model needs {needed}, and {there} are free; name another disk")


def _rename_away(output: Path) -> None:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d_%H%M%S_%f")
    target = output.with_name(f"{output.name}.old_{stamp}")
    output.rename(target)
    logger.warning("%s: what was there is now %s", output, target.name)


def render_report(report: Mapping[str, Any]) -> RenderableType:
    """Build the table: how far the merged model is from the adapter on its base, and both scores."""
    scores, base = report["scores"], report["as_trained"]
    names = ("adapter on its base", "merged, read back") if _was_merged(report) else ("the model", "written, read back")
    rows: list[Row] = [(names[0], None, scores["adapter"]), (names[1], report["probe"], scores["merged"])]
    if made := report.get("made"):
        rows.append((f"in {made['type']}, read back", made["probe"], made["score"]))
    if base is not None:
        rows.append((f"adapter on the {base['quantization']} base, as trained", base, base["score"]))
    return render_rows(_title(report), rows, scores["names"], _list_notes(report))


def render_rows(title: str, rows: Iterable[Row], scored: Iterable[str], notes: Iterable[str]) -> RenderableType:
    """Build a table of models, each with its distance from the first one and its scores, and notes under it."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE, pad_edge=False)
    for index, head in enumerate(["", "largest logit difference", "mean", "same top-1", *scored]):
        table.add_column(Text(head), justify="left" if index == 0 else "right", overflow="fold")
    for name, difference, score in rows:
        cells = ["", "", ""] if difference is None else _show_difference(difference)
        values = [(score or {}).get(each) for each in scored]
        table.add_row(Text(name), *cells, *("-" if value is None else f"{value:.4f}" for value in values))
    return Group(table, *(Text(each) for each in notes))


def _was_merged(report: Mapping[str, Any]) -> bool:
    return bool(report["source"].get("is_adapter", True))


def _title(report: Mapping[str, Any]) -> str:
    return f"{report['output']} ({report['dtype']}, {report['size_bytes'] / 2**20:.1f} MiB)"


def _show_difference(difference: Mapping[str, Any]) -> list[str]:
    agreement = difference["top1_agreement"]
    return [
        f"{difference['largest_difference']:.2g}",
        f"{difference['mean_difference']:.2g}",
        "-" if agreement is None else f"{agreement:.1%}",
    ]


def _list_notes(report: Mapping[str, Any]) -> list[str]:
    probe, scores = report["probe"], report["scores"]
    kept = probe["update_kept"]
    share = "" if kept is None else f"; {kept:.1%} of the adapter's effect on them is kept"
    notes = [
        f"logits of {probe['rows']} rows ({probe['source']}), the largest {probe['largest_logit']:.3g}; rounding in "
        f"{report['dtype']} explains {probe['tolerance']:.2g}{share}",
        note_score(scores),
    ]
    if measured := report["as_measured"]:
        notes.append(
            f"the adapter on its base is the model that the run measured: logits differ by up to "
            f"{measured['largest_difference']:.2g}"
        )
    if base := report["as_trained"]:
        notes.append(
            f"the adapter was trained on a base in {base['quantization']}, whose rounding the merged model does not "
            f"have: logits differ by up to {base['largest_difference']:.2g}, which is no error"
        )
    if made := report.get("made"):
        after, before = (f"{made[name] / 2**20:,.1f} MiB" for name in ("size_bytes", "size_before"))
        notes.append(f"{made['format']} {made['type']}: {after}, {before} before")
    if others := (made or {}).get("stored_as_f16"):
        notes.append(f"stored as f16, as their rows are no multiple of 32 long: {len(others)} tensors")
    if report["tied_embeddings"] is False:
        notes.append("input and output embeddings were tied in the base and differ now: both are written")
    return notes


def describe_merge(report: Mapping[str, Any]) -> Made:
    """Tell for the model's card how it was merged."""
    probe, base, merged = report["probe"], report["as_trained"], _was_merged(report)
    facts = {
        "commit of the base": report["source"]["base_commit"],
        "weights in": report["dtype"],
        "parameters": f"{report['num_parameters']:,}",
        f"compared with the {'adapter on its base' if merged else 'trained model'}": f"{probe['rows']} rows, after "
        "reading the files back",
        "largest difference of a logit": f"{probe['largest_difference']:.2g} (the largest logit is "
        f"{probe['largest_logit']:.3g}; rounding explains {probe['tolerance']:.2g})",
        "same top-1 answer": None if probe["top1_agreement"] is None else f"{probe['top1_agreement']:.1%}",
        "trained on": base
        and f"the base in {base['quantization']}, whose rounding is not in this model: its logits "
        f"differ by up to {base['largest_difference']:.2g}",
    }
    return Made("whole", "after merging", "the adapter merged into the weights" if merged else "", facts)


def note_score(scores: Mapping[str, Any]) -> str:
    """Say on what the models were scored, or why they were not."""
    return f"score: {scores['rows']} rows, {scores['source']}" if scores["names"] else f"no score: {scores['source']}"
