"""CAUSAL_LM: supervised fine-tuning with TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from utils.config.document import Document
from utils.config.section import Section
from utils.config.sections.dataset import DatasetSection
from utils.config.sections.evaluation import EvaluationSection, explain_metrics
from utils.config.sections.generation import GenerationSection
from utils.config.sections.training import OwnTrainingSection
from utils.core.errors import Problem
from utils.core.texts import PromptTemplate
from utils.data.dataset import describe_instructions
from utils.evaluation.describing import COMBINED
from utils.modeling.sizes import has_position_table, length_problem
from utils.modeling.source import read_model_config
from utils.tasks import task
from utils.tasks.sft.evaluation_rules import find_evaluation_mistakes, is_loss
from utils.tasks.sft.section import WITHOUT_EFFECT, sft_section

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

    from utils.config.run_config import RunConfig
    from utils.data.dataset import InstructionSet
    from utils.tasks.task import TaskRun


SectionBuilder: TypeAlias = "Callable[[], type[Section]]"


class Task(task.Task):
    """See `utils.tasks.task.Task`."""

    TASK_TYPE = "CAUSAL_LM"
    SECTION = "sft"
    GENERATES = True
    LENGTH_KEY = "sft.max_length"
    # SFTConfig's own defaults turn on gradient checkpointing, and bfloat16 unless fp16 is set
    LOSSES = {"loss": False, "perplexity": False, "token_accuracy": True}
    DEFAULTS = {"gradient_checkpointing": False, "bf16": False, "learning_rate": 2e-5}
    PIPELINE = "text-generation"

    @classmethod
    def sections(cls) -> dict[str, SectionBuilder]:
        """Return the sections of supervised training, generating and scoring."""
        return {"sft": sft_section, "generation": lambda: GenerationSection, "evaluation": lambda: EvaluationSection}

    @classmethod
    def own_metric(cls, read: Mapping[str, Section]) -> str | None:
        """Return the sum over all sets if answers are evaluated during training and the loss is not."""
        evaluation, training = read["evaluation"], read["training"]
        assert isinstance(evaluation, EvaluationSection)
        assert isinstance(training, OwnTrainingSection)
        evaluates_loss = training.arguments.get("eval_strategy", "no") != "no"
        return COMBINED if evaluation.is_periodic and not evaluates_loss else None

    @classmethod
    def evaluates_itself(cls, config: RunConfig) -> bool:
        """Return whether a metric other than the loss chooses the best checkpoint."""
        return not is_loss(config)

    @classmethod
    def headline(cls, config: RunConfig) -> str | None:
        """Return the first metric in the dataset's own section."""
        metrics = getattr(config.dataset, "metrics", None)
        return metrics[0] if metrics else None

    @classmethod
    def check(cls, config: RunConfig, document: Document, files: bool) -> Iterator[Problem]:
        """Check metrics, evaluations during training, and the length against the model's positions."""
        found = (*_check_metrics(config), *find_evaluation_mistakes(config, files), *_check_length(config))
        for path, message in found:
            yield document.problem(path, message)

    @classmethod
    def find_unused(cls, config: RunConfig) -> dict[str, tuple[bool, str]]:
        """Map each key to whether its value has no effect, and the reason."""
        generation, training = config.generation, config.training
        ignored = WITHOUT_EFFECT if cls.SECTION == Task.SECTION else {}
        greedy, idle = generation.temperature == 0, not config.arguments.get("do_train", True)
        return {
            "evaluation.steps": (idle and config.evaluation.steps is not None, "training.do_train is false"),
            "evaluation.retention": (idle and bool(config.evaluation.retention), "training.do_train is false"),
            "evaluation.at_start": (idle and config.evaluation.at_start, "training.do_train is false"),
            **{f"sft.{name}": (True, why) for name, why in ignored.items()},
            **{
                f"generation.{name}": (greedy and getattr(generation, name) is not None, "generation.temperature is 0")
                for name in ("top_p", "top_k")
            },
            "training.class_weights": (training.class_weights is not None, "it is for SEQ_CLS"),
            "training.head_learning_rate": (
                training.head_learning_rate is not None,
                "a language model has no new head",
            ),
        }

    @classmethod
    def measure_base(cls, config: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Score the base on the retention sets."""
        from utils.tasks.sft.retention import Retention

        Retention(config).score_base(model, tokenizer)

    @classmethod
    def open(cls, config: RunConfig) -> TaskRun:
        """Open one run."""
        from utils.tasks.sft.run import SftRun

        return SftRun(config)

    @classmethod
    def arguments_class(cls) -> type[TrainingArguments]:
        """Return TRL's SFTConfig."""
        from trl import SFTConfig

        arguments: type[TrainingArguments] = SFTConfig
        return arguments

    @classmethod
    def build_collator(cls, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        """Build a collator that pads inputs and labels."""
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        collator: Callable[[list[dict[str, Any]]], Any] = DataCollatorForLanguageModeling(tokenizer.pad_token_id)
        return collator

    @classmethod
    def describe_rows(cls, config: RunConfig) -> InstructionSet:
        """Return the dataset's own description of its rows."""
        return describe_instructions(config.dataset)

    @classmethod
    def count_texts(cls, dataset: DatasetSection) -> int:
        """Count the columns of a prompt."""
        template = getattr(dataset, "prompt_template", None)
        if isinstance(template, str) and len(columns := PromptTemplate.parse(template).columns) > 1:
            return len(columns)
        spec = describe_instructions(dataset)
        return 1 if spec.ask is not None or spec.resolve is not None else max(1, len(spec.prompt_columns))


def _check_metrics(config: RunConfig) -> Iterator[tuple[str, str]]:
    if wrong := explain_metrics(getattr(config.dataset, "metrics", None) or ()):
        yield "dataset.metrics", wrong


def _check_length(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Check that the model has positions for the length in the file.

    Under the default, which a run's own run.yaml also contains, only the rows decide.
    """
    length = config.max_length
    section, _, key = config.length_key.partition(".")
    if length == type(config.task_sections[section]).model_fields[key].default:
        return
    base = read_model_config(config.model) or {}
    if config.peft.virtual_tokens and has_position_table(base):
        return  # checked with the rows
    if message := length_problem(base, config.model.rope_scaling, length):
        yield config.length_key, message
