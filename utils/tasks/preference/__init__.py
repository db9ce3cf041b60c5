"""Common parts of tasks that learn from preferences: section, reference log-probabilities, trainer and run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from utils.config.document import Document
from utils.config.section import Section
from utils.core.errors import Problem
from utils.tasks import sft, task

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from utils.config.run_config import RunConfig


class PreferenceSection(Section):
    """Keys of every task that compares the model with a reference, with TRL's names."""

    max_length: int = Field(1024, ge=8)
    """CAUSAL_LM: maximum tokens of a prompt with an answer; longer ones follow dataset.truncation. Both answers of a
    pair keep the same prompt."""
    beta: float = Field(0.1, gt=0)
    """How strongly the model is kept near the reference: larger is nearer. For ipo it is the paper's tau."""
    ref_model: str | None = None
    """Another model as the reference, a folder or hub id with the same tokenizer; null: the model that training starts
    from. Its log-probabilities are computed before training, so it is not in memory then."""
    precompute_ref_log_probs: bool = False
    """Compute the reference's log-probabilities before training, once per row; they are kept in the run's folder, and
    an interrupted run continues there. Faster from two epochs on. Always done if the reference is not the base without
    its adapter: with ref_model, without an adapter, or with an adapter from adapter_path or not starting at zero."""
    precompute_ref_batch_size: int | None = Field(None, ge=1)
    """Batch size of that computation; null: training.per_device_train_batch_size."""
    disable_dropout: bool = True
    """Train without dropout, the adapter's included, so that model and reference differ only by what was learned."""
    padding_free: bool | None = None
    """As sft.padding_free: concatenate the answers of a batch instead of padding them; null: if the model is verified
    to keep them apart."""
    pad_to_multiple_of: int | None = Field(None, ge=1)
    """Pad batches to a multiple of this; null: 8 in half precision."""


class PreferenceTask(sft.Task):
    """A language-model task that reads preferences; see `utils.tasks.task.Task`."""

    IS_DEFAULT = False
    DEFAULTS: ClassVar = {"learning_rate": 1e-6}
    OWN_SECTION: ClassVar[type[Section]]

    @classmethod
    def sections(cls) -> dict[str, sft.SectionBuilder]:
        """Return the task's own section, and those of generating and scoring."""
        shared = {name: build for name, build in super().sections().items() if name != sft.Task.SECTION}
        return {str(cls.SECTION): lambda: cls.OWN_SECTION, **shared}

    @classmethod
    def arguments_class(cls) -> type[TrainingArguments]:
        """Return transformers' TrainingArguments."""
        return task.Task.arguments_class()

    @classmethod
    def headline(cls, config: RunConfig) -> str | None:
        """Return None if rows are evaluated: the record has the first set's metric, else the first of LOSSES."""
        return None if cls.LOSSES else super().headline(config)

    @classmethod
    def find_unused(cls, config: RunConfig) -> dict[str, tuple[bool, str]]:
        """Map each key to whether its value has no effect, and the reason."""
        return {**super().find_unused(config), **find_unread(config)}

    @classmethod
    def check(cls, config: RunConfig, document: Document, files: bool) -> Iterator[Problem]:
        """Also check the settings of rows."""
        yield from super().check(config, document, files)
        yield from check_rows(config, document)


def check_rows(config: RunConfig, document: Document) -> Iterator[Problem]:
    """Check that dataset.split_long is off, which cuts plain texts only."""
    if getattr(config.dataset, "split_long", False):
        yield document.problem("dataset.split_long", "only plain texts are split; leave it out")


def find_unread(config: RunConfig) -> dict[str, tuple[bool, str]]:
    """Map keys that losses of rows do not read to whether they are set, and the reason."""
    reason = f"the loss is that of {config.length_key.split('.')[0]}:, which has no classes to spread over"
    return {"training.label_smoothing_factor": (bool(config.arguments.get("label_smoothing_factor")), reason)}
