"""SEQ_CLS with a section `reward:`: a model that scores answers, learned from pairs (Bradley and Terry 1952)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from utils.config.document import Document
from utils.config.error_messages import suggest
from utils.config.section import Section
from utils.config.sections.dataset import DatasetSection
from utils.core.errors import Problem
from utils.data.preference import as_pairs
from utils.tasks import preference, sft, task
from utils.tasks.reward.section import RewardSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig
    from utils.data.dataset import InstructionSet
    from utils.modeling.head import HeadSpec
    from utils.tasks.task import TaskRun


class Task(task.Task):
    """See `utils.tasks.task.Task`."""

    TASK_TYPE = "SEQ_CLS"
    SECTION = "reward"
    IS_DEFAULT = False
    JUDGES = True
    ROW_TYPE = sft.Task.TASK_TYPE
    LENGTH_KEY = "reward.max_length"
    DEFAULTS = {"learning_rate": 1e-4}
    LOSSES = {
        "accuracy": True, "loss": False, "margin": True, "mean_reward": True, "rewards/chosen": True,
        "rewards/rejected": False,
    }  # fmt: skip
    PIPELINE = "text-classification"

    @classmethod
    def sections(cls) -> dict[str, Callable[[], type[Section]]]:
        """Return the task's own section; nothing is generated."""
        return {"reward": lambda: RewardSection}

    @classmethod
    def check(cls, config: RunConfig, document: Document, files: bool) -> Iterator[Problem]:
        """Check the metric of the best checkpoint, and the settings of rows."""
        yield from preference.check_rows(config, document)
        chosen = str(config.arguments.get("metric_for_best_model") or "loss").removeprefix("eval_")
        if chosen not in cls.LOSSES:
            message = f"no result called {chosen}{suggest(chosen, [*cls.LOSSES])}; there are {', '.join(cls.LOSSES)}"
            yield document.problem("training.metric_for_best_model", message)

    @classmethod
    def find_unused(cls, config: RunConfig) -> dict[str, tuple[bool, str]]:
        """Map each key to whether its value has no effect, and the reason."""
        weights = {"training.class_weights": (config.training.class_weights is not None, "rewards have no classes")}
        return {**weights, **preference.find_unread(config)}

    @classmethod
    def open(cls, config: RunConfig) -> TaskRun:
        """Open one run."""
        from utils.tasks.reward.run import RewardRun

        return RewardRun(config)

    @classmethod
    def build_collator(cls, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        """Pad both answers; labels 1 and -1 give the model's own loss, near rewards of 0, the direction of this one."""
        from transformers import DataCollatorWithPadding

        pad, sides = DataCollatorWithPadding(tokenizer), (("input_ids", 1.0), ("rejected_input_ids", -1.0))
        return lambda rows: pad([{"input_ids": row[name], "labels": label} for name, label in sides for row in rows])

    @classmethod
    def build_head(cls, label_names: Sequence[str]) -> HeadSpec | None:
        """Describe a head with one output."""
        from utils.modeling.head import build_head_spec

        return build_head_spec(())

    @classmethod
    def count_labels(cls, dataset: DatasetSection) -> int | None:
        """Return 1."""
        return 1

    @classmethod
    def describe_rows(cls, config: RunConfig) -> InstructionSet:
        """Describe the dataset's rows as pairs with margins."""
        return as_pairs(sft.Task.describe_rows(config), getattr(config.dataset, "roles", {}), margins=True)

    @classmethod
    def count_texts(cls, dataset: DatasetSection) -> int:
        """Count the columns of a prompt, and the answer."""
        return sft.Task.count_texts(dataset) + 1
