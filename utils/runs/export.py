"""Write a run's results: the exported model, the record, HF's result files, the workbook, submissions."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import load_adapter
from utils.adapters.adapter_path import describe_start
from utils.adapters.saved_adapter import require_whole_tensors
from utils.config.run_config import RunConfig
from utils.core.logs import is_main_process
from utils.core.replace_file import replace_text
from utils.core.secrets import mask_text
from utils.data.classification import ClassificationData
from utils.modeling.head import LABELS_FILE
from utils.modeling.tokenizer import CONVERSATIONS_KEY
from utils.results.exports import write_hf_results, write_predictions, write_submission
from utils.results.provenance import collect_provenance, write_provenance
from utils.results.record import RunRecord, write_record
from utils.results.workbook import write_workbook
from utils.runs.inputs import record_inputs
from utils.runs.model_card import write_card
from utils.runs.opening import RunFolder
from utils.runs.report import write_report
from utils.tasks.probe import PROBE_FILE
from utils.trainer.checkpoint_files import find_checkpoints, flush_folder, link_best
from utils.trainer.failures import explain_full_disk
from utils.trainer.launch import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from utils.tasks.outcome import Outcome
    from utils.tasks.task import PreparedData

logger = logging.getLogger(__name__)

NUM_PROBE_ROWS = 64


def export_model(
    folder: RunFolder,
    config: RunConfig,
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    data: PreparedData,
) -> None:
    """Write final_model/ atomically: weights, tokenizer, labels and the resolved configuration.

    Also links best_model to the best checkpoint. Called on all processes, which wait until the main one has written.
    """
    spread = is_sharded(config.arguments)
    with _removing_partial(folder):
        if spread and is_main_process():
            shutil.rmtree(_partial(folder), ignore_errors=True)
        if spread:  # all processes pass their shards
            trainer.save_model(str(_partial(folder)), _internal_call=True)
        if is_main_process():
            model = None if spread else trainer.accelerator.unwrap_model(trainer.model)
            _write_final_model(folder, config, model, tokenizer, data)
            best = trainer.state.best_model_checkpoint
            link_best(folder.path, Path(best) if best else None)
    trainer.accelerator.wait_for_everyone()


@contextmanager
def _removing_partial(folder: RunFolder) -> Iterator[None]:
    """Remove partial files on any failure, and explain a full disk in one sentence."""
    try:
        with explain_full_disk(folder.path):
            yield
    except BaseException:
        if is_main_process():
            shutil.rmtree(_partial(folder), ignore_errors=True)
        raise


def _write_final_model(
    folder: RunFolder,
    config: RunConfig,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    data: PreparedData,
) -> None:
    """Write to the temporary folder and rename it; without a model its weights are already there."""
    target, partial = folder.final_model, _partial(folder)
    old = target.with_name("final_model.old")
    if model is not None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        load_adapter(config.peft.method).save(model, partial)
    (partial / "training_args.bin").unlink(missing_ok=True)  # the Trainer's pickle
    require_whole_tensors(partial)
    if any(row.get("messages") for row in data.probe_rows(1)):
        tokenizer.init_kwargs[CONVERSATIONS_KEY] = True
    tokenizer.save_pretrained(partial)
    (partial / "run.yaml").write_text(config.to_yaml(in_run=True), encoding="utf-8")
    _write_labels(partial, data)
    flush_folder(partial)
    shutil.rmtree(old, ignore_errors=True)
    # After a kill between the two renames, the next start restores final_model.old.
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _partial(folder: RunFolder) -> Path:
    return folder.final_model.with_name("final_model.partial")


def write_data_facts(folder: RunFolder, config: RunConfig, data: PreparedData) -> None:
    """Write before training what makes any checkpoint usable: the class names, and the probe rows as texts.

    Later checks identify the model by the probe rows. The inputs of a resumed run must be unchanged.

    Raises:
        UserError: Rows or base have changed since the run was started.
    """
    if not is_main_process():
        return
    record_inputs(folder.path, folder.resume_from, config, data.fingerprint)
    _write_labels(folder.path, data)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data.probe_rows(NUM_PROBE_ROWS))
    replace_text(folder.path / PROBE_FILE, lines)


def write_submissions(folder: RunFolder, data: Any, predicted: dict[str, dict[Any, Any]]) -> None:
    """Write a file for the benchmark server for each predicted test split."""
    if not is_main_process() or not predicted:
        return
    assert isinstance(data, ClassificationData), "only classification has submissions"
    names = data.spec.label_names or ()
    for submission, _ in data.tests:
        values = predicted[submission.file]
        if data.coder.names:  # the server's ids are the benchmark's, whatever the checkpoint's order
            values = {row: names.index(data.coder.names[value]) for row, value in values.items()}
        path = write_submission(folder.path / "submission", submission.file, values, submission.kind, names)
        logger.info("submission: %s (%d rows)", path, len(values))


def write_results(folder: RunFolder, config: RunConfig, outcome: Outcome, provenance: dict[str, Any]) -> RunRecord:
    """Write results.json, HF's files and, if requested, results.xlsx; return the finished record."""
    record = outcome.complete()
    if start := provenance.get("adapter"):
        record = replace(record, extra={**record.extra, "adapter": start})
    if is_main_process():
        write_provenance(folder.path, provenance)
        write_hf_results(folder.path, outcome.trained, outcome.evaluated, outcome.task_metrics)
        if "xlsx" in config.results.formats:
            path = folder.path / "results.xlsx"
            write_workbook(path, record, config.to_dict(), provenance, config.results.language)
        for name, rows in outcome.answers.items():
            write_predictions(folder.path / f"eval_{name}", rows)
        write_report(folder.path, config, record, provenance)
        if folder.final_model.is_dir():
            write_card(folder.final_model, config, record)
        write_record(folder.path, record)
    return record


class Recording:
    """Keeps the record of a run that may fail: an exception leaves a record with its status and error.

    A context manager around everything after the folder is opened.
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._folder = folder
        self._config = config
        self.started = datetime.now(timezone.utc)
        self._start = describe_start(config.peft)
        self.record = RunRecord(
            status="failed",
            task_name=config.task_name,
            task_type=config.task_type,
            method=config.peft.method if config.arguments.get("do_train", True) else "none",
            seed=config.seed,
            warnings=list(config.warnings),
            config_fingerprint=config.fingerprint(),
        )

    def __enter__(self) -> Recording:
        if is_main_process():
            write_provenance(self._folder.path, collect_provenance(started=self.started))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or not is_main_process():
            return
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        if status == "interrupted":
            kept = find_checkpoints(self._folder.path)
            hint = f"--resume continues from {kept[-1].name}" if kept else "it has no checkpoint yet: start it again"
            logger.warning("%s is interrupted; %s", self._folder.path, hint)
        extra = {"error": mask_text(f"{type(error).__name__}: {error}")[:2000]}
        record = replace(self.record, status=status, extra=extra)  # type: ignore[arg-type]  # one of these two
        write_record(self._folder.path, record)
        with suppress(OSError):  # the run's own error is the one to report
            write_report(self._folder.path, self._config, record, collect_provenance(started=self.started))

    def provenance(self, data: PreparedData, model_commit: str | None) -> dict[str, Any]:
        """Collect the facts needed to repeat the run."""
        facts = {
            "fingerprint": data.fingerprint,
            "splits": {name: each.rows for name, each in data.reports.items()},
        }
        collected = collect_provenance(
            started=self.started,
            ended=datetime.now(timezone.utc),
            data=facts,
            commits={"model": model_commit, "dataset": data.commit},
        )
        extended = {"extensions": self._config.hash_extensions()} if self._config.extensions else {}
        return {**collected, **extended} | ({} if self._start is None else {"adapter": self._start})


def _write_labels(folder: Path, data: PreparedData) -> None:
    if data.label_names is not None:
        replace_text(folder / LABELS_FILE, json.dumps(data.label_names, ensure_ascii=False))
