"""The folder of one result: kept, set aside or continued; where it came from; and what the run had scored before."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import UserError
from utils.core.replace_file import set_aside
from utils.evaluation.files import IDENTITY, PREDICTIONS, RESULTS, read_object
from utils.results.json_file import write_json
from utils.results.labels import is_score, scale
from utils.results.provenance import collect_provenance

if TYPE_CHECKING:
    from utils.evaluate_model.evaluated_model import EvaluatedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One result."""

    label: str
    folder: Path
    result: Mapping[str, Any]
    """As it stands in results.json."""
    shown: tuple[str, ...]
    """Metrics of the table, the headline first."""
    reused: bool
    """It was there already: nothing was computed."""
    difference: float | None = None
    """The headline minus that of the earlier score; None: there is none, or the two must not be compared."""

    def to_dict(self) -> dict[str, Any]:
        """Give it for `--json`."""
        extra = {"folder": str(self.folder), "reused": self.reused, "difference": self.difference}
        return {**self.result, **{key: value for key, value in extra.items() if value is not None}}


@dataclass(frozen=True)
class Earlier:
    """What was in a result's folder before."""

    same: Mapping[str, Any] | None
    """The finished result of the same weights, rows and settings."""
    other: Mapping[str, Any] | None
    """The finished result of others, which is set aside now."""


def open_result_folder(folder: Path, identity: Mapping[str, Any]) -> Earlier:
    """Look what is in a result's folder, which may be missing; what is of other weights, rows or settings is renamed.

    `identity` is what identity.json will hold. Results of something else altogether are refused; what a classifier's
    training wrote of its validation rows is set aside.
    """
    before, result = read_object(folder / IDENTITY), read_object(folder / RESULTS)
    if before is None and _is_of_training(folder):
        kept = folder.rename(folder.with_name(f"{folder.name}.of_training"))
        logger.info("%s: what training wrote of these rows is now %s", folder, kept.name)
        return Earlier(None, None)
    if before is None:
        for name in (RESULTS, PREDICTIONS):
            if (folder / name).exists():
                raise UserError(f"{folder}: holds {name} of something else; give another --output_dir")
        return Earlier(None, None)
    if before == identity:
        return Earlier(result, None)
    changed = " and ".join(key for key in identity if before.get(key) != identity[key]) or "kinds of evaluation"
    logger.warning("%s: an earlier result had other %s; it is now %s", folder, changed, set_aside(folder).name)
    return Earlier(None, result)


def _is_of_training(folder: Path) -> bool:
    """Tell whether a folder of a run holds a classifier's answers that no evaluation wrote."""
    kept = folder.with_name(f"{folder.name}.of_training")
    own = (folder.parent / "run.yaml").is_file() and not kept.exists()
    return own and (folder / PREDICTIONS).exists() and not (folder / RESULTS).exists()


def write_facts(
    folder: Path, evaluated: EvaluatedModel, earlier: Earlier, started: datetime, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Add to results.json which weights were evaluated, when, with what and by which command, and give its content.

    A result that was there already keeps its own provenance; one that the training wrote gets the training's.
    """
    result = read_object(folder / RESULTS)
    assert result is not None, f"no {RESULTS} in {folder}"
    provenance = None
    if earlier.same is not None:
        provenance = earlier.same.get("provenance") or evaluated.earlier_provenance()
    provenance = provenance or collect_provenance(started=started, ended=datetime.now(timezone.utc))
    result = {**result, **(more or {}), "weights": evaluated.describe_weights(), "provenance": provenance}
    write_json(folder / RESULTS, result)
    return result


def log_difference(
    result: Mapping[str, Any], name: str, reference: float | None, whose: str, reason: str | None
) -> float | None:
    """Say how a score, 0-1, differs from an earlier one, or for which reason it is not set against it."""
    label = result["label"]
    if reason is not None:
        logger.info("%s: not compared with %s: %s", label, whose, reason)
    if reason is not None or reference is None:
        return None
    value = result["metrics"][name]
    times = " x100" if is_score(name) else ""
    new, old = scale(name, value), scale(name, reference)
    logger.info("%s: %s%s %.2f, %.2f in %s (%+.2f)", label, name, times, new, old, whose, new - old)
    return float(value - reference)


def log_reused(folder: Path) -> None:
    """Say that a result was there."""
    logger.info("%s: already done with these weights, rows and settings; nothing was computed again", folder)
