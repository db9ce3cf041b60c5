"""The folder of one result: keep, set aside or continue it, record its provenance, and compare with earlier scores."""

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
    """The content of results.json."""
    shown: tuple[str, ...]
    """Metrics of the table, the headline first."""
    reused: bool
    """Whether it existed already and nothing was computed."""
    difference: float | None = None
    """The headline minus that of the earlier score; None: there is none, or they must not be compared."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry for `--json`."""
        extra = {"folder": str(self.folder), "reused": self.reused, "difference": self.difference}
        return {**self.result, **{key: value for key, value in extra.items() if value is not None}}


@dataclass(frozen=True)
class Earlier:
    """Earlier content of a result's folder."""

    same: Mapping[str, Any] | None
    """The finished result of the same weights, rows and settings."""
    other: Mapping[str, Any] | None
    """The finished result of others, which is set aside now."""


def open_result_folder(folder: Path, identity: Mapping[str, Any]) -> Earlier:
    """Inspect a result's folder, which may be missing; results of other weights, rows or settings are renamed.

    `identity` is the content of identity.json. Unrelated results are rejected; a classifier's own training results on
    its validation rows are set aside.
    """
    before, result = read_object(folder / IDENTITY), read_object(folder / RESULTS)
    if before is None and _is_of_training(folder):
        kept = folder.rename(folder.with_name(f"{folder.name}.of_training"))
        logger.info("%s: the training's own results on these rows are now in %s", folder, kept.name)
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
    """Return whether a run's folder holds a classifier's answers from training, not from an evaluation."""
    kept = folder.with_name(f"{folder.name}.of_training")
    own = (folder.parent / "run.yaml").is_file() and not kept.exists()
    return own and (folder / PREDICTIONS).exists() and not (folder / RESULTS).exists()


def write_facts(
    folder: Path, evaluated: EvaluatedModel, earlier: Earlier, started: datetime, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Add weights, time, environment and command of the evaluation to results.json, and return its content.

    An existing result keeps its own provenance; one from training gets the training's.
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
    """Log how a score, 0-1, differs from an earlier one, or why they are not compared."""
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
    """Log that a result exists."""
    logger.info("%s: already done with these weights, rows and settings; nothing was computed again", folder)
