"""The table at the end of a merge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


def render_report(report: Mapping[str, Any]) -> RenderableType:
    """Build the table: how far the merged model is from the adapter on its base, and both scores.

    Args:
        report: As it stands in merge_report.json.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    probe, base = report["probe"], report["as_trained"]
    table = Table(title=Text(_title(report)), title_justify="left", box=box.SIMPLE, pad_edge=False)
    heads = ["", "largest logit difference", "mean", "same top-1", *report["scores"]["names"]]
    for index, head in enumerate(heads):
        table.add_column(Text(head), justify="left" if index == 0 else "right")
    rows: list[tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]] = [
        ("adapter on its base", None, report["scores"]["adapter"]),
        ("merged, read back", probe, report["scores"]["merged"]),
    ]
    if base is not None:
        rows.append((f"adapter on the {base['quantization']} base, as trained", base, base["score"]))
    for name, difference, score in rows:
        cells = ["", "", ""] if difference is None else _show_difference(difference)
        values = [(score or {}).get(each) for each in report["scores"]["names"]]
        table.add_row(Text(name), *cells, *("-" if value is None else f"{value:.4f}" for value in values))
    return Group(table, *(Text(each) for each in _list_notes(report)))


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
        f"score: {scores['rows']} rows, {scores['source']}" if scores["names"] else f"no score: {scores['source']}",
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
    if report["tied_embeddings"] is False:
        notes.append("input and output embeddings were tied in the base and differ now: both are written")
    return notes
