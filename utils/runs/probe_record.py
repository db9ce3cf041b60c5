"""The trained model's logits on its run's probe rows, by which it is identified, and another base is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import UserError
from utils.core.logs import is_main_process
from utils.modeling.verify import prove_recorded, record_logits
from utils.results.json_file import read_json
from utils.runs.open_model import open_run
from utils.tasks.probe import check_reload
from utils.tasks.task import open_task

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase, Trainer

    from utils.modeling.consent import Consent
    from utils.runs.model_ref import TrainedModel
    from utils.tasks.probe import Probe
    from utils.tasks.task import TaskRun

RECORD_FILE = "probe_logits.json"


def open_probe(trained: TrainedModel, tokenizer: PreTrainedTokenizerBase, num_eval: int) -> Probe:
    """Open the probe of a trained model; a classifier is scored on at most `num_eval` rows, 0 for none."""
    return open_task(trained.config).open_probe(trained.label_names, trained.run, tokenizer, num_eval)


def check_export(run: Path, task: TaskRun, trainer: Trainer, data: Any, consent: Consent) -> dict[str, Any] | None:
    """Verify that the exported model is the trained one, and save its logits on the probe rows.

    The trainer holds the trained model before, and the reloaded one afterwards. Returns the figures of the check; None
    if there was nothing to compare.

    Raises:
        CheckError: The models differ.
    """
    trained = open_run(run, consent)
    tokenizer: Any = trainer.processing_class
    check = check_reload(trainer, task.choose_reload_rows(data, tokenizer), lambda: trained.load()[0])
    if check is not None and is_main_process():
        probe = open_probe(trained, tokenizer, 0)
        if probe.num_rows:
            _write_record(run, probe, trainer.model, tokenizer)
    return check


def _write_record(run: Path, probe: Probe, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    logits, dtype = probe.compute_logits(model), str(model.dtype).removeprefix("torch.")
    record = {"version": 1, "rows": _hash_rows(probe, tokenizer), **record_logits(logits, dtype)}
    (run / RECORD_FILE).write_text(json.dumps(record), encoding="utf-8")


def compare_with_record(
    trained: TrainedModel, probe: Probe, tokenizer: PreTrainedTokenizerBase, logits: np.ndarray[Any, Any], dtype: str
) -> dict[str, Any] | None:
    """Compare an adapter on its base with the run's own record.

    `logits` are those of the adapter on its base, one row for each compared position, computed in `dtype`.

    Returns:
        The largest difference and the tolerance; None if the run has no record of these weights and rows.

    Raises:
        CheckError: The models differ.
    """
    file = trained.run / RECORD_FILE if trained.run and trained.weights.name == "final_model" else None
    record = read_json(file) if file is not None else None
    if record is None or record.get("rows") != _hash_rows(probe, tokenizer):
        return None
    try:
        return prove_recorded(record, logits, dtype, trained.config.model.name_or_path)
    except ValueError as error:
        message = f"{file} is damaged ({error}); delete it to skip comparing the base with the run's record"
        raise UserError(message) from error


def _hash_rows(probe: Probe, tokenizer: PreTrainedTokenizerBase) -> str:
    return hashlib.sha256(json.dumps(probe.encode(tokenizer)).encode()).hexdigest()[:16]
