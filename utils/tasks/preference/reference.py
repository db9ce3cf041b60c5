"""The reference's log-probabilities of all rows, computed once before training and kept in the run's folder."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from utils.core.errors import UserError
from utils.core.signals import interruption_requested, raise_if_interrupted
from utils.tasks.preference import PreferenceSection
from utils.tasks.preference.batches import REFERENCE

if TYPE_CHECKING:
    from datasets import Dataset

    from utils.config.run_config import RunConfig
    from utils.tasks.preference.trainer import PreferenceTrainer

logger = logging.getLogger(__name__)

_NUM_PROBED = 8
_TOLERANCE = 1e-3


def prepare_reference(trainer: PreferenceTrainer, config: RunConfig, fingerprint: str) -> None:
    """Precompute the reference's log-probabilities unless the base without its adapter gives them.

    The reference is the model that training starts from, held by the trainer, or the section's ref_model.

    The trainer's rows get the column `REFERENCE`; `fingerprint` identifies the rows and their encoding.

    Raises:
        UserError: The weights are sharded over processes, so that the log-probabilities cannot be precomputed.
    """
    section = config.section(PreferenceSection)
    reason = _find_reason(trainer, section)
    if reason is None:
        return
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise UserError(f"{reason}, which FSDP and DeepSpeed do not allow here; use DDP, or LoRA that starts at zero")
    logger.info("the reference's log-probabilities are computed before training: %s", reason)
    known = json.dumps([fingerprint, config.model.model_dump(), config.peft.model_dump(), config.seed,
                        section.model_dump()], sort_keys=True, default=str)  # fmt: skip
    name = hashlib.sha256(known.encode()).hexdigest()[:16]
    folder = Path(config.training.output_dir).expanduser() / "reference"
    other = None if section.ref_model is None else _load_other(trainer, config, section.ref_model)
    size = section.precompute_ref_batch_size or trainer.args.per_device_train_batch_size
    trainer.train_dataset = _compute(trainer, trainer.train_dataset, folder / f"train-{name}", size, other)
    if trainer.eval_dataset is not None:
        trainer.eval_dataset = _compute(trainer, trainer.eval_dataset, folder / f"validation-{name}", size, other)


def _find_reason(trainer: PreferenceTrainer, section: PreferenceSection) -> str | None:
    """Return why the log-probabilities must be precomputed; None: the base without its adapter gives them."""
    if section.ref_model is not None:
        return f"the reference is {section.ref_model}"
    if section.precompute_ref_log_probs:
        return "precompute_ref_log_probs asks for it"
    if not hasattr(trainer.accelerator.unwrap_model(trainer.model), "disable_adapter"):
        return "there is no adapter to disable"
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return None
    rows = trainer._remove_unused_columns(trainer.train_dataset)
    batch = trainer._prepare_inputs(trainer.data_collator([rows[row] for row in range(min(_NUM_PROBED, len(rows)))]))
    with trainer.as_start() as model:
        start = trainer.reference_of(model, batch)
    with trainer.as_base() as model, trainer.compute_loss_context_manager():
        base = trainer.reference_of(model, batch)
    differs = bool(((start - base).abs() > _TOLERANCE * base.abs().clamp(min=1)).any())
    return "the adapter does not start as the base" if differs else None


def _load_other(trainer: PreferenceTrainer, config: RunConfig, name: str) -> Any:
    from utils.modeling.base_model import load_base_model
    from utils.trainer.trained_head import install_trained_head
    from utils.trainer.varlen_attention import NAME, separate_documents

    section = config.model.model_copy(update={"name_or_path": name, "revision": None})
    model = load_base_model(section, trainer.processing_class, None).to(trainer.args.device)
    install_trained_head(model)
    if trainer.model.config.get_text_config()._attn_implementation == NAME and (reason := separate_documents(model)):
        raise UserError(f"ref_model: {reason}; set padding_free: false")
    return model


def _compute(trainer: PreferenceTrainer, rows: Dataset, path: Path, size: int, other: Any) -> Dataset:
    """Add the column; each process writes the values of its share of batches to a file, and resumes at its end."""
    rank, world = trainer.args.process_index, trainer.args.world_size
    files = [path.with_name(f"{path.name}-{number}of{world}.f32") for number in range(world)]
    plain = trainer._remove_unused_columns(rows)
    batches = [range(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
    mine = batches[rank::world]
    width = trainer.references_per_row
    path.parent.mkdir(parents=True, exist_ok=True)
    with files[rank].open("ab") as file, trainer.as_start(other) as model:
        for batch in mine[_count_finished(file, mine, width) :]:
            if interruption_requested():  # processes have different numbers of batches
                raise_if_interrupted()
            inputs = trainer._prepare_inputs(trainer.data_collator([plain[row] for row in batch]))
            found = trainer.reference_of(model, inputs).reshape(width, -1).T
            file.write(np.ascontiguousarray(found.float().cpu().numpy()).tobytes())
            file.flush()
    trainer.accelerator.wait_for_everyone()
    values: np.ndarray[Any, Any] = np.empty((len(rows), width), np.float32)
    for number, each in enumerate(files):
        places = [row for batch in batches[number::world] for row in batch]
        values[places] = np.fromfile(each, np.float32).reshape(-1, width)
    torch.cuda.empty_cache()
    return rows.add_column(REFERENCE, values.astype(np.float64).tolist())


def _count_finished(file: BinaryIO, batches: list[range], width: int) -> int:
    """Count the finished batches in the file (float32, `width` values per row), and truncate a partial one."""
    ends = np.cumsum([0, *map(len, batches)])
    finished = int(np.searchsorted(ends, file.tell() // (4 * width), side="right")) - 1
    file.truncate(4 * width * int(ends[finished]))
    return finished
