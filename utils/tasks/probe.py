"""How a model is recognised: by logits on a run's probe rows, or on a few texts where it left none, and by a score.

A task makes a Probe of the rows that a run left, for a merge; and of validation rows what `check_reload` asks the model
in memory and the one that was read back from disk.
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
    """Rows, as the run wrote them."""

    rows: list[dict[str, Any]]
    """Of a classifier: texts by column, and `labels`. Of a language model: the fields of an example, or prompt and
    reference."""
    source: str
    """The file, or `built-in texts`."""


def read_probes(run: Path | None, columns: tuple[str, ...]) -> Probes:
    """Read a run's probe rows.

    Args:
        run: Its folder; None for an adapter that was made elsewhere.
        columns: What a built-in text fills; one column, or two.

    Raises:
        UserError: The file is not JSON lines.
    """
    file = run / PROBE_FILE if run is not None else None
    if file is not None and file.is_file():
        try:
            rows = [parse_json(line) for line in file.read_bytes().split(b"\n") if line.strip()]
        except NotJsonError as error:
            raise UserError(f"{file}: {error}; delete it, then built-in texts are used") from None
        if not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{file}: a line holds no row; delete it, then built-in texts are used")
        if rows:
            return Probes(rows[:_NUM_ROWS], PROBE_FILE)
    logger.warning("there are no probe rows of the run; the models are compared on %d built-in texts", len(_TEXTS))
    return Probes([dict.fromkeys(columns, text) for text in _TEXTS], "built-in texts")


@contextmanager
def explain_damaged_rows(source: str) -> Iterator[None]:
    """Say of probe rows that lack a key, or hold values of another type, that they are damaged.

    Args:
        source: As in `Probes.source`.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{source} is damaged: {reason}; delete it, then built-in texts are used") from error


@dataclass(frozen=True)
class Answers:
    """What a model answered."""

    logits: np.ndarray[Any, Any]
    """Of the probe rows, float32; shape (n, classes or vocabulary)."""
    score: Mapping[str, float] | None = None
    """By metric; None where no labelled rows are at hand."""


Ask: TypeAlias = "Callable[[PreTrainedModel], Answers]"
"""Gives a model's answers to rows that were made into tokens before."""


@dataclass(frozen=True)
class Probe:
    """Rows, made into tokens once."""

    rows: str
    """Where the probe rows come from."""
    num_rows: int
    """Probe rows."""
    scored: str
    """Which rows are scored, or why none are."""
    num_scored: int
    """Rows that are scored."""
    encode: Callable[[PreTrainedTokenizerBase], list[list[int]]]
    """Gives the probe rows' tokens."""
    compute_logits: Callable[[PreTrainedModel], np.ndarray[Any, Any]]
    """Gives the logits of the probe rows alone."""
    answer: Ask
    """Gives logits and score."""


def check_tokenizer(probe: Probe, trained: PreTrainedTokenizerBase, written: PreTrainedTokenizerBase) -> None:
    """Prove that the tokenizer that was written is the trained model's.

    Raises:
        CheckError: It cuts a probe row otherwise, or has another pad token, end or chat template.
    """
    names = ("pad_token_id", "eos_token_id", "chat_template")
    changed = [name for name in names if getattr(trained, name) != getattr(written, name)]
    changed += ["its tokens"] if probe.encode(trained) != probe.encode(written) else []
    if changed:
        raise CheckError(f"the written tokenizer is not the trained model's: {', '.join(changed)} differ")


def check_reload(trainer: Trainer, ask: Ask | None, load_saved: Callable[[], PreTrainedModel]) -> dict[str, Any] | None:
    """Prove that what was saved is what was trained: reload it from disk as a user would, and compare the answers.

    The trainer holds the trained model before, and the one read back afterwards.

    Returns:
        The figures of the check; None where there are no rows to ask.

    Raises:
        CheckError: The difference is more than rounding.
    """
    if ask is None or _is_spread(trainer):
        return None
    # While the model is still there: the dtype is read from its weights.
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
    """Ask in the trainer's precision, by the bare model: DeepSpeed's evaluation wants an optimizer."""
    from utils.trainer.varlen_attention import plain_attention

    with trainer.compute_loss_context_manager(), plain_attention(trainer.model):
        return ask(trainer.model)


def _is_spread(trainer: Trainer) -> bool:
    """Tell, and say, that one device may have no room for the weights that several hold in parts."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    spread: bool = trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()
    if spread and trainer.args.device.type != "cpu":
        logger.info("reload check: left out, as one device may not hold the model; no saved tensor is empty")
        return True
    return False


def _compute_dtype(trainer: Trainer) -> str:
    """Name the precision that the trainer computes in."""
    if trainer.args.bf16:
        return "bfloat16"
    if trainer.args.fp16:
        return "float16"
    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in trainer.model.parameters()}
    return next((name for name in ("bfloat16", "float16") if name in dtypes), "float32")


def _replace_model(trainer: Trainer, load_saved: Callable[[], PreTrainedModel]) -> None:
    """Release the trained model before the saved one is loaded: two would not fit on a full GPU."""
    import torch
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    handler = trainer.callback_handler
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    handler.model = handler.optimizer = handler.lr_scheduler = None
    trainer.accelerator.free_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    unset_hf_deepspeed_config()  # or ZeRO-3 would cut up the model that is read back
    model = load_saved()
    trainer.model = trainer.model_wrapped = model.to(trainer.args.device) if trainer.place_model_on_device else model
