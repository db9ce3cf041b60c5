"""Build the trainer of a supervised fine-tuning run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from trl import SFTConfig
from trl.data_utils import pack_dataset

from utils.config.sections.peft import AdapterSection
from utils.core.errors import UserError
from utils.tasks.sft.evaluation_rules import BestMetric
from utils.tasks.sft.section import OwnSftSection
from utils.tasks.sft.trainer import CausalTrainer
from utils.trainer.building import build_arguments, build_trainer
from utils.trainer.flat_batches import FlatCollator
from utils.trainer.varlen_attention import require_separate_documents, separate_documents

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig

logger = logging.getLogger(__name__)

_OURS = {
    "packing": False,  # packed before, so that the number of steps is known when the adapter is attached
    "padding_free": False,  # done by the collator
    "max_length": None,  # rows are cut when they are encoded
    "dataset_kwargs": {"skip_prepare_dataset": True},
}
_PASSED_ON = ("loss_type", "activation_offloading", "router_aux_loss_coef")


def pack_rows(rows: Dataset, max_length: int) -> Dataset:
    """Pack whole documents, none longer than max_length tokens, into rows of that length by best fit decreasing.

    Returns:
        Rows with `input_ids`, `labels` and `seq_lengths`, the lengths of each row's documents.
    """
    packed: Dataset = pack_dataset(rows.select_columns(["input_ids", "labels"]), max_length, "bfd")
    tokens = sum(map(len, rows["input_ids"][:]))
    logger.info("packing: %d rows fill %d of %d tokens (%.0f %% used)", len(rows), len(packed), max_length,
                100 * tokens / (len(packed) * max_length))  # fmt: skip
    return packed


def build_causal_trainer(
    config: RunConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset | None,
    evaluation: Dataset | None,
    best: BestMetric | None = None,
) -> CausalTrainer:
    """Build the trainer for a model with its adapter attached.

    Training rows have `input_ids`, `labels` and `length`, or are packed; None disables training or evaluation.

    Raises:
        ModelError: The model would let documents of a packed row attend to each other.
        UserError: Several GPUs are visible to one process, which TRL does not train on.
    """
    sft = config.section(OwnSftSection)
    flattened = choose_layout(sft.packing or sft.padding_free, config.peft, model, "sft.packing")
    passed = {name: value for name in _PASSED_ON if (value := getattr(sft, name, None)) is not None}
    fitted = fit_arguments(config, best, evaluation is not None)
    arguments = build_arguments(config, {**_OURS, **passed, **fitted}, SFTConfig)
    if arguments.n_gpu > 1 and config.model.device_map is None:
        raise UserError(
            f"{arguments.n_gpu} GPUs are visible to one process; use --gpu 0 for one of them, --gpu 0,1 for a process "
            "on each, or model.device_map: auto to spread the model"
        )
    return build_trainer(
        CausalTrainer,
        config,
        model=model,
        args=arguments,
        train_dataset=train if train is not None else evaluation,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        data_collator=FlatCollator(
            pad_token_id=tokenizer.pad_token_id,
            padding_free=flattened,
            pad_to_multiple_of=choose_multiple(
                getattr(sft, "pad_to_multiple_of", None), flattened, arguments.bf16 or arguments.fp16
            ),
        ),
    )


def fit_arguments(config: RunConfig, best: BestMetric | None, evaluates: bool) -> dict[str, Any]:
    """Adapt arguments to the evaluation: whether there are rows, and the metric of the best checkpoint."""
    fitted = {"ddp_find_unused_parameters": config.arguments.get("ddp_find_unused_parameters", False)}
    if not evaluates:
        fitted |= _without_evaluation(config.arguments, best)
    if best is not None and (best.is_generated or evaluates):
        fitted |= {"metric_for_best_model": best.name, "greater_is_better": best.greater_is_better}
    return fitted


def _without_evaluation(resolved: dict[str, Any], best: BestMetric | None) -> dict[str, Any]:
    """Disable evaluations of the loss; a score of generated answers may still choose the best checkpoint."""
    by_loss = best is not None and not best.is_generated
    idle = [key for key in ("eval_on_start", *(["load_best_model_at_end"] if by_loss else [])) if resolved.get(key)]
    if idle or resolved.get("eval_strategy", "no") != "no":
        logger.warning(
            "training.eval_strategy, eval_on_start and load_best_model_at_end have no effect: there are no validation "
            "rows; hold some out by dataset.validation_size"
        )
    never = {"load_best_model_at_end": False, "metric_for_best_model": None} if by_loss else {}
    return {"eval_strategy": "no", "eval_on_start": False, **never}


def choose_layout(wanted: bool | None, peft: AdapterSection, model: PreTrainedModel, key: str) -> bool:
    """Decide whether a batch's rows are concatenated instead of padded; None: if the model supports it.

    Raises:
        ModelError: The key asks for it, and the model cannot keep the rows apart.
    """
    if wanted:
        require_separate_documents(model, key)
        return True
    if wanted is False or peft.LIMITS.packing:
        return False
    reason = separate_documents(model)
    if reason:
        logger.info("batches are padded: %s", reason)
    return reason is None


def choose_multiple(wanted: int | None, flattened: bool, half: bool) -> int | None:
    """Choose the multiple of padded lengths: 8 suits tensor cores."""
    return wanted if wanted is not None else 8 if half and not flattened else None
