"""Rows for scoring a classifier: splits of its own dataset, or rows of another with the same classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from utils.config.sections.dataset import ClassificationSection
from utils.core import registry
from utils.core.errors import DataError, UserError
from utils.data.dataset import ClassificationSet, describe_classification, find_dataset_plugin, load_dataset_plugin
from utils.data.row_files import is_row_file

if TYPE_CHECKING:
    from utils.config.sections.evaluation import SetSection
    from utils.data.classification import ClassificationData
    from utils.evaluate_model.evaluated_model import Job


@dataclass(frozen=True)
class ScoredSplits:
    """Splits of one source of rows."""

    section: ClassificationSection
    spec: ClassificationSet
    labels: dict[str, str]
    """Label of the result by the split's key in `spec.eval_splits`."""
    suffixes: dict[str, str]
    """Suffix of the metrics in the run's own record, by the same key; empty for rows that it never scored."""


def describe_splits(job: Job) -> list[ScoredSplits]:
    """Describe all requested rows; sets that are not for classifiers, and hidden labels, are rejected."""
    if job.sections is None:
        assert isinstance(job.config.dataset, ClassificationSection), f"got {type(job.config.dataset)}"
        section = job.config.dataset
        spec = replace(describe_classification(section), submissions=())
        if not spec.eval_splits:
            raise UserError(f"{section.name} {section.subset or ''}: has no labelled rows to score on; name a --set")
        return [ScoredSplits(section, spec, dict(spec.eval_splits), {key: key for key in spec.eval_splits})]
    return [_describe(each, job) for each in job.sections]


def check_classes(data: ClassificationData, trained: tuple[str, ...], label: str) -> None:
    """Reject rows of a regression for a model of classes, and vice versa."""
    if bool(data.coder.names) != bool(trained):
        kinds = [
            "a regression" if not names else f"classes {', '.join(names)}" for names in (trained, data.coder.names)
        ]
        raise DataError(f"{label}: the run learned {kinds[0]}, these rows have {kinds[1]}")


def _describe(request: SetSection, job: Job) -> ScoredSplits:
    if request.metrics:
        raise UserError(f"--set {request.name}: metrics are for generated texts; a classifier gets all of its own")
    section, is_own = _choose_section(request, job)
    spec = describe_classification(section)
    own_splits = dict(spec.eval_splits)
    spec = _choose_split(spec, request.split, section)
    if not is_own:
        spec = _without_training_rows(spec, request.split)
    labels = {key: request.resolved_label + key for key in spec.eval_splits}  # mnli, and mnli_mm for mismatched
    known = {split: suffix for suffix, split in own_splits.items()} if is_own else {}
    suffixes = {key: known[split] for key, split in spec.eval_splits.items() if split in known}
    return ScoredSplits(section, spec, labels, suffixes)


def _choose_section(request: SetSection, job: Job) -> tuple[ClassificationSection, bool]:
    """Return the section that describes the rows, and whether they are the configuration's own."""
    own: Any = job.config.dataset
    known = find_dataset_plugin(request.name)
    plugin = known or registry.normalize(own.name)
    path = request.path or (request.name if known is None else None)
    if path == own.path and not is_row_file(path or ""):
        path = None
    given: dict[str, Any] = {key: value for key, value in (("path", path), ("subset", request.subset)) if value}
    given |= request.dataset
    is_same = plugin == registry.normalize(own.name)
    is_own = is_same and path is None and request.subset in (None, own.subset)
    limit = request.max_samples or job.max_eval_samples or given.get("max_eval_samples")
    limit = limit or (own.max_eval_samples if is_own else None)
    base = own.model_dump(exclude_unset=True) if is_same else {"max_length": own.max_length}
    kind = load_dataset_plugin(plugin).Config
    if not issubclass(kind, ClassificationSection):
        raise UserError(f"--set {request.name}: is for task_type: {' or '.join(kind.TASK_TYPES)}, this is a classifier")
    try:
        return kind.model_validate({**base, **given, "name": plugin, "max_eval_samples": limit}), is_own
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"--set {request.name}: {where}: {first['msg']}") from None


def _choose_split(spec: ClassificationSet, split: str | None, section: ClassificationSection) -> ClassificationSet:
    """Keep one split if one is requested; held-out rows, or those in a separate file, are the validation split."""
    if split is None or split in spec.eval_splits.values():
        kept = {key: name for key, name in spec.eval_splits.items() if split in (None, name)}
        if len(kept) == 1:
            kept = {"": next(iter(kept.values()))}
        return replace(spec, eval_splits=kept, submissions=())
    if "[" in split:
        raise UserError(f"--set @{split}: a classifier takes whole splits; dataset.max_eval_samples cuts them")
    if split in (each.split for each in spec.submissions):
        raise UserError(
            f"--set @{split}: the labels of {section.name}'s {split} rows are not public; train.py writes predictions "
            "to submit"
        )
    return replace(spec, eval_splits={"": split}, validation_path=None, validation_size=None, submissions=())


def _without_training_rows(spec: ClassificationSet, split: str | None) -> ClassificationSet:
    """Read only what is scored; a single file is one split, `train`."""
    if is_row_file(spec.path):
        spec = replace(spec, eval_splits={"": split or "train"})
    num_labels = spec.num_labels if spec.num_labels == 1 or spec.label_names else None  # rows may lack classes
    return replace(spec, train_split=None, validation_path=None, validation_size=None, num_labels=num_labels)
