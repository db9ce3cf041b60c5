"""What tasks that learn from preferences share: their section, reference log-probabilities, trainer and run."""

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
    """Keys of every task that compares the trained model with a reference, spelt as TRL spells them."""

    max_length: int = Field(1024, ge=8)
    """CAUSAL_LM: tokens that a prompt with an answer may have; dataset.truncation says what happens to longer ones.
    Both sides of a pair keep the same prompt."""
    beta: float = Field(0.1, gt=0)
    """How strongly the model is kept near the reference: more is nearer. For ipo it is the paper's tau."""
    ref_model: str | None = None
    """Another model as the reference, a folder or hub id with the same tokenizer; null: the model that training starts
    from. It is not in memory while the run trains: its log-probabilities are computed before."""
    precompute_ref_log_probs: bool = False
    """Compute the reference's log-probabilities before training, once a row; they are kept in the run's folder, and an
    interrupted run continues there. Faster from two epochs on. It is done anyway where the reference is not the base
    under the adapter: with ref_model, without an adapter, where one starts from adapter_path or not at zero."""
    precompute_ref_batch_size: int | None = Field(None, ge=1)
    """Rows at once for that; null: training.per_device_train_batch_size."""
    disable_dropout: bool = True
    """Train without dropout, the adapter's included, so that model and reference differ by what was learnt alone."""
    padding_free: bool | None = None
    """As sft.padding_free: put the answers of a batch one after another instead of padding them; null: where the model
    is proved to keep them apart."""
    pad_to_multiple_of: int | None = Field(None, ge=1)
    """Pad batches to a multiple of this; null: 8 in half precision."""


class PreferenceTask(sft.Task):
    """A task of language models that read preferences; see `utils.tasks.task.Task`."""

    IS_DEFAULT = False
    DEFAULTS: ClassVar = {"learning_rate": 1e-6}
    OWN_SECTION: ClassVar[type[Section]]

    @classmethod
    def sections(cls) -> dict[str, sft.SectionBuilder]:
        """Give its own section beside those of generating and scoring."""
        shared = {name: build for name, build in super().sections().items() if name != sft.Task.SECTION}
        return {str(cls.SECTION): lambda: cls.OWN_SECTION, **shared}

    @classmethod
    def arguments_class(cls) -> type[TrainingArguments]:
        """Give transformers' own."""
        return task.Task.arguments_class()

    @classmethod
    def headline(cls, config: RunConfig) -> str | None:
        """Leave it to the run's record, where rows are evaluated: the first set's metric, else the first of LOSSES."""
        return None if cls.LOSSES else super().headline(config)

    @classmethod
    def find_unused(cls, config: RunConfig) -> dict[str, tuple[bool, str]]:
        """Give by key whether its value has no effect, and why."""
        return {**super().find_unused(config), **find_idle(config)}

    @classmethod
    def check(cls, config: RunConfig, document: Document, files: bool) -> Iterator[Problem]:
        """Check also that long rows and prompts are asked for what they can be."""
        yield from super().check(config, document, files)
        yield from check_rows(config, document)


def check_rows(config: RunConfig, document: Document) -> Iterator[Problem]:
    """Check that nothing is asked of rows that they cannot be."""
    if getattr(config.dataset, "split_long", False):
        yield document.problem("dataset.split_long", "only plain texts are cut into pieces; leave it out")


def find_idle(config: RunConfig) -> dict[str, tuple[bool, str]]:
    """Give by key what losses of rows do not read, and why."""
    said = f"the loss is that of {config.length_key.split('.')[0]}:, which has no classes to spread over"
    return {"training.label_smoothing_factor": (bool(config.arguments.get("label_smoothing_factor")), said)}
