"""The report of a merge or a conversion: its table, its notes, and its part of the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from utils.runs.model_card import Conversion

if TYPE_CHECKING:
    from rich.console import RenderableType

Row: TypeAlias = tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]
"""A row of the table: the model, its differences from the first model, its scores."""


def render_report(report: Mapping[str, Any]) -> RenderableType:
    """Build the table: the difference of the merged model from the adapter on its base, and both scores."""
    scores, base = report["scores"], report["as_trained"]
    names = ("adapter on its base", "merged, read back") if _was_merged(report) else ("the model", "written, read back")
    rows: list[Row] = [(names[0], None, scores["adapter"]), (names[1], report["probe"], scores["merged"])]
    if made := report.get("made"):
        rows.append((f"in {made['type']}, read back", made["probe"], made["score"]))
    if base is not None:
        rows.append((f"adapter on the {base['quantization']} base, as trained", base, base["score"]))
    return render_rows(_title(report), rows, scores["names"], _list_notes(report))


def render_rows(title: str, rows: Iterable[Row], scored: Iterable[str], notes: Iterable[str]) -> RenderableType:
    """Build a table of models, each with its difference from the first and its scores, followed by notes."""
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


def describe_merge(report: Mapping[str, Any]) -> Conversion:
    """Describe the merge for the model card."""
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
    return Conversion("whole", "after merging", "the adapter merged into the weights" if merged else "", facts)


def note_score(scores: Mapping[str, Any]) -> str:
    """Return the rows of the score, or why there is none."""
    return f"score: {scores['rows']} rows, {scores['source']}" if scores["names"] else f"no score: {scores['source']}"
