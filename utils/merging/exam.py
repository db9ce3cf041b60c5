"""What both models are asked, the adapter on its base and the merged one: logits on probe rows, and a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from utils.errors import CheckError

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.merging.source import MergeSource


@dataclass(frozen=True)
class Answers:
    """What a model answered."""

    logits: np.ndarray[Any, Any]
    """Of the probe rows, float32; shape (n, classes or vocabulary)."""
    score: Mapping[str, float] | None
    """By metric; None where no labelled rows are at hand."""


class Exam(Protocol):
    """Rows, made into tokens once."""

    rows: str
    """Where the probe rows come from."""
    num_rows: int
    """Probe rows."""
    scored: str
    """Which rows are scored, or why none are."""
    num_scored: int
    """Rows that are scored."""

    def compute_logits(self, model: PreTrainedModel) -> np.ndarray[Any, Any]:
        """Give the logits of the probe rows, float32; shape (n, classes or vocabulary)."""

    def answer(self, model: PreTrainedModel) -> Answers:
        """Give logits and score."""

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Give the probe rows' tokens."""


def open_exam(source: MergeSource, tokenizer: PreTrainedTokenizerBase, num_eval: int) -> Exam:
    """Make the exam of a run.

    Args:
        source: The run.
        tokenizer: Its own.
        num_eval: Rows to score a classifier on, at most; 0: no score.
    """
    if source.config.task_type == "CAUSAL_LM":
        from utils.merging.language import LanguageExam

        return LanguageExam(source, tokenizer, with_loss=num_eval > 0)
    from utils.merging.classifier import ClassifierExam

    return ClassifierExam(source, tokenizer, num_eval)


def check_tokenizer(exam: Exam, trained: PreTrainedTokenizerBase, written: PreTrainedTokenizerBase) -> None:
    """Prove that the tokenizer that was written is the trained model's.

    Raises:
        CheckError: It cuts a probe row otherwise, or has another pad token, end or chat template.
    """
    names = ("pad_token_id", "eos_token_id", "chat_template")
    changed = [name for name in names if getattr(trained, name) != getattr(written, name)]
    changed += ["its tokens"] if exam.encode(trained) != exam.encode(written) else []
    if changed:
        raise CheckError(f"the written tokenizer is not the trained model's: {', '.join(changed)} differ")
