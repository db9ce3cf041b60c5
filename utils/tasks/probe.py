"""Probes identify a model by its logits on a run's probe rows, or on built-in texts, and by a score.

A task opens a Probe of the rows that a run left, for a merge. `check_reload` compares the model in memory with the one
read back from disk on validation rows.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from utils.core.errors import CheckError, UserError
from utils.core.json_files import NotJsonError, parse_json
from utils.modeling.verify import prove_reloaded

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

logger = logging.getLogger(__name__)

PROBE_FILE = "probe_rows.jsonl"
_NUM_ROWS = 64
_TEXTS = (
    "The film is a quiet triumph, and its last scene stays with you.",
    "Question: A farmer has 12 hens and buys 7 more. How many hens are there now?\nAnswer:",
    "It was not what we had hoped for.",
    "def add(first, second):\n    return first + second",
    "In 1969 two people walked on the moon while a third one waited above them.",
    "yes",
    "Please write to us at the address below if your order has not arrived after ten days.",
    "Which of these sentences, if any, follows from the other? None of them does.",
)


@dataclass(frozen=True)
class Probes:
    """Rows as the run wrote them."""

    rows: list[dict[str, Any]]
    """For a classifier: texts by column, and `labels`. For a language model: the fields of an example, or prompt and
    reference."""
    source: str
    """The file, or `built-in texts`."""


def read_probes(run: Path | None, columns: tuple[str, ...]) -> Probes:
    """Read a run's probe rows.

    `run` is None for an adapter made elsewhere; a built-in text fills the one or two `columns`.

    Raises:
        UserError: The file is not valid JSON lines.
    """
    file = run / PROBE_FILE if run is not None else None
    if file is not None and file.is_file():
        try:
            rows = [parse_json(line) for line in file.read_bytes().split(b"\n") if line.strip()]
        except NotJsonError as error:
            raise UserError(f"{file}: {error}; delete it to use built-in texts") from None
        if not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{file}: a line is not a row; delete the file to use built-in texts")
        if rows:
            return Probes(rows[:_NUM_ROWS], PROBE_FILE)
    logger.warning("the run has no probe rows; the models are compared on %d built-in texts", len(_TEXTS))
    return Probes([dict.fromkeys(columns, text) for text in _TEXTS], "built-in texts")


@contextmanager
def explain_damaged_rows(source: str) -> Iterator[None]:
    """Report probe rows with missing keys or values of the wrong type as damaged."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{source} is damaged: {reason}; delete it to use built-in texts") from error


@dataclass(frozen=True)
class Answers:
    """A model's answers to the probe rows."""

    logits: np.ndarray[Any, Any]
    """Logits of the probe rows, float32, shape (n, classes or vocabulary)."""
    score: Mapping[str, float] | None = None
    """Scores by metric; None without labelled rows."""


Ask: TypeAlias = "Callable[[PreTrainedModel], Answers]"
"""Computes a model's answers to rows tokenized before."""


@dataclass(frozen=True)
class Probe:
    """Probe rows, tokenized once."""

    rows: str
    """Source of the probe rows."""
    num_rows: int
    """Number of probe rows."""
    scored: str
    """Description of the scored rows, or why none are scored."""
    num_scored: int
    """Number of scored rows."""
    encode: Callable[[PreTrainedTokenizerBase], list[list[int]]]
    """Tokenizes the probe rows."""
    compute_logits: Callable[[PreTrainedModel], np.ndarray[Any, Any]]
    """Computes the logits of the probe rows only."""
    answer: Ask
    """Computes logits and score."""


def check_tokenizer(probe: Probe, trained: PreTrainedTokenizerBase, written: PreTrainedTokenizerBase) -> None:
    """Verify that the written tokenizer is the trained model's.

    Raises:
        CheckError: It tokenizes a probe row differently, or has another pad token, end token or chat template.
    """
    names = ("pad_token_id", "eos_token_id", "chat_template")
    changed = [name for name in names if getattr(trained, name) != getattr(written, name)]
    changed += ["its tokens"] if probe.encode(trained) != probe.encode(written) else []
    if changed:
        raise CheckError(f"the written tokenizer is not the trained model's: {', '.join(changed)} differ")


def check_reload(trainer: Trainer, ask: Ask | None, load_saved: Callable[[], PreTrainedModel]) -> dict[str, Any] | None:
    """Verify that the saved model is the trained one: reload it from disk as a user would, and compare the answers.

    The trainer holds the trained model before the check, and the reloaded one afterwards.

    Returns:
        The figures of the check; None without rows to compare.

    Raises:
        CheckError: The difference is more than rounding.
    """
    if ask is None or _is_sharded_on_gpus(trainer):
        return None
    # Before the model is released: the dtype is read from its weights.
    dtype = _compute_dtype(trainer)
    before = _answer_in_training(trainer, ask)
    _replace_model(trainer, load_saved)
    after = _answer_in_training(trainer, ask)
    report = prove_reloaded(before.logits, after.logits, dtype)
    if before.score is None:
        return report
    same = before.logits.argmax(-1) == after.logits.argmax(-1)
    num_labels = before.logits.shape[-1]
    return {
        **report,
        "same_predictions": float(same.mean()) if num_labels > 1 else None,
        "score_trained": before.score,
        "score_reloaded": after.score,
    }


def _answer_in_training(trainer: Trainer, ask: Ask) -> Answers:
    """Compute answers in the trainer's precision by the unwrapped model: DeepSpeed's evaluation needs an optimizer."""
    from utils.trainer.varlen_attention import plain_attention

    with trainer.compute_loss_context_manager(), plain_attention(trainer.model):
        return ask(trainer.model)


def _is_sharded_on_gpus(trainer: Trainer) -> bool:
    """Return, and log, whether the weights are sharded over GPUs, so that one may be too small for them."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    sharded: bool = trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()
    if sharded and trainer.args.device.type != "cpu":
        logger.info("reload check: skipped, as one device may not hold the model; no saved tensor is empty")
        return True
    return False


def _compute_dtype(trainer: Trainer) -> str:
    """Return the precision that the trainer computes in."""
    if trainer.args.bf16:
        return "bfloat16"
    if trainer.args.fp16:
        return "float16"
    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in trainer.model.parameters()}
    return next((name for name in ("bfloat16", "float16") if name in dtypes), "float32")


def _replace_model(trainer: Trainer, load_saved: Callable[[], PreTrainedModel]) -> None:
    """Release the trained model before loading the saved one: two would not fit on a full GPU."""
    import torch
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    handler = trainer.callback_handler
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    handler.model = handler.optimizer = handler.lr_scheduler = None
    trainer.accelerator.free_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    unset_hf_deepspeed_config()  # ZeRO-3 would partition the reloaded model
    model = load_saved()
    trainer.model = trainer.model_wrapped = model.to(trainer.args.device) if trainer.place_model_on_device else model
