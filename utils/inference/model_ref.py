"""The model that answers: a trained run, weights with a configuration, or a model as it was published."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import load_adapter
from utils.adapters.trained_files import explain_damage
from utils.config.run_config import RunConfig, find_differences
from utils.config.sections.dataset import ClassificationSection, DatasetSection
from utils.config.sections.generation import GenerationSection
from utils.config.sections.model import ModelSection, is_local
from utils.core.errors import ModelError, UserError
from utils.inference.request import ModelChoice
from utils.modeling.consent import NO_CONSENT, Consent
from utils.modeling.source import folder_problem, read_model_config
from utils.run_config import load_run_config
from utils.runs.reading import TrainedModel, read_run_folder, read_with_config, refuse_own_folder
from utils.tasks.sft.section import OwnSftSection
from utils.tasks.task import load_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_MERGED_RUN = "merged_run.yaml"  # the configuration that merge_adapter.py leaves beside a merged model
_RUN_WINS = ("dataset", "sft", "task_type")
_RUN_WINS_IN_MODEL = ("name_or_path", "revision", "chat_template", "extra_special_tokens", "pad_token")


@dataclass(frozen=True)
class Loaded:
    """A model in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    label_names: tuple[str, ...]
    """In the order of the ids; empty for regression and language models."""


@dataclass(frozen=True)
class ModelRef:
    """A model that is not loaded yet."""

    title: str
    generates: bool
    """Whether it writes text, or answers with labels."""
    dataset: DatasetSection | None
    """What it was trained on; None: it has no run."""
    sft: OwnSftSection | None
    """The `sft:` section of a language model's run."""
    generation: GenerationSection
    load: Callable[[], Loaded]


def open_subject(choice: ModelChoice) -> ModelRef:
    """Find the model; for a run nothing heavy is imported.

    Raises:
        UserError: It is not there, or is something else than it was called.
    """
    if choice.run is not None:
        with explain_damage(choice.run):
            return _open_trained(choice.run, _read_run(choice))
    if choice.config is not None and choice.model_path is not None:
        with explain_damage(choice.model_path):
            given = load_run_config(choice.config, files=False)
            return _open_trained(choice.model_path, _open_pair(given, choice.model_path, choice.consent))
    assert choice.model is not None, "checked before"
    return _open_published(choice.model, choice.consent)


def _read_run(choice: ModelChoice) -> TrainedModel:
    """Read a run, or a merged model, as it was written, by the configuration that was left beside it."""
    weights = _choose_weights(choice)
    if not (weights / _MERGED_RUN).is_file():
        return read_run_folder(weights, choice.consent)
    written = load_run_config(weights / _MERGED_RUN, files=False, may_extend=choice.consent.allow_extensions)
    merged = _open_pair(written, str(weights), NO_CONSENT)
    allowed = choice.consent.apply(merged.config.model, str(weights))
    as_written = allowed.model_copy(update={"quantization": None, "dtype": "auto"})
    return replace(merged, config=replace(merged.config, model=as_written))


def _choose_weights(choice: ModelChoice) -> Path:
    run = Path(choice.run or "").expanduser()
    if choice.best:
        if not (run / "best_model").exists():
            raise UserError(f"--run {run} --best: the run marked no checkpoint as its best; name one by --checkpoint")
        return run / "best_model"
    if choice.checkpoint is not None:
        folder = run / f"checkpoint-{choice.checkpoint}"
        if run.is_dir() and not folder.is_dir():
            there = sorted(int(each.name.split("-")[1]) for each in run.glob("checkpoint-*"))
            known = f"there are: {', '.join(map(str, there))}" if there else "it has none"
            raise UserError(f"--run {run} --checkpoint {choice.checkpoint}: no such checkpoint; {known}")
        return folder
    return run


def _open_trained(name: str, trained: TrainedModel) -> ModelRef:
    config = trained.config
    if not (trained.weights / "adapter_config.json").is_file() and config.peft.method != "none":
        whole = (trained.weights / "config.json").is_file()
        if whole:  # a merged model, which keeps its run's configuration
            config = replace(config, peft=load_adapter("none").Config(method="none"))  # type: ignore[attr-defined]
            trained = replace(trained, config=config)

    def load() -> Loaded:
        model, tokenizer = replace(trained, name=name).load()
        return Loaded(model, tokenizer, trained.label_names)

    generation = config.find_section(GenerationSection) or GenerationSection()
    return ModelRef(
        f"{name} ({trained.weights.name})",
        load_task(config.task).GENERATES,
        config.dataset,
        config.find_section(OwnSftSection),
        generation,
        load,
    )


def _open_pair(given: RunConfig, folder: str, consent: Consent) -> TrainedModel:
    """Open weights with a configuration; a run's own run.yaml wins for template, labels and columns."""
    trained = read_with_config(given, folder, consent)
    if trained.run is None:
        return trained
    return replace(trained, config=_settle_differences(trained.config, given))


def _settle_differences(own: RunConfig, given: RunConfig) -> RunConfig:
    """Say where the file differs from the run, and take from each what is its to say."""
    for key, (before, after) in find_differences(own.to_dict(), given.to_dict()).items():
        section, _, name = key.partition(".")
        runs = section in _RUN_WINS or (section == "model" and name in _RUN_WINS_IN_MODEL)
        if runs or section in ("model", "generation"):
            whose = "the run's" if runs else f"{given.source}'s"
            logger.warning("%s: the run has %r, %s has %r; %s counts", key, before, given.source, after, whose)
    kept = {name: getattr(own.model, name) for name in _RUN_WINS_IN_MODEL}
    sections = {
        **own.task_sections,
        **{name: given.task_sections[name] for name in ("generation",) if name in given.task_sections},
    }
    return replace(own, model=given.model.model_copy(update=kept), task_sections=sections)


def _own_labels(model_config: dict[str, Any]) -> tuple[str, ...]:
    named = model_config.get("id2label") or {}
    return tuple(str(named[key]) for key in sorted(named, key=int))


def _open_published(name: str, consent: Consent) -> ModelRef:
    if not name.strip():
        raise UserError("--model: is empty; give a hub name or a folder")
    section = consent.apply(ModelSection(name_or_path=name), name)
    refuse_own_folder(name)
    if is_local(name) and (problem := folder_problem(section)):
        raise UserError(f"--model: {problem}")
    model_config = read_model_config(section) or _fetch_config(section)
    made_as = (model_config.get("architectures") or [""])[0]
    if not made_as.endswith("ForSequenceClassification"):
        return ModelRef(name, True, None, None, GenerationSection(), lambda: _load_published(section, None))
    if model_config.get("problem_type") == "multi_label_classification":
        raise ModelError(f"--model {name}: several classes may hold of a text at once here, which is not answered")
    names = _own_labels(model_config)
    num_labels = len(names) or int(model_config.get("num_labels", 2))
    is_value = num_labels == 1 or model_config.get("problem_type") == "regression"
    names = () if is_value else names or tuple(f"LABEL_{index}" for index in range(num_labels))
    return ModelRef(name, False, None, None, GenerationSection(), lambda: _load_published(section, names))


def _fetch_config(section: ModelSection) -> dict[str, Any]:
    from transformers import AutoConfig

    from utils.modeling.hub_errors import explain_loading
    from utils.modeling.source import loading_arguments

    with explain_loading(section):
        fetched = AutoConfig.from_pretrained(
            section.location, trust_remote_code=section.trust_remote_code, **loading_arguments(section)
        )
    described: dict[str, Any] = fetched.to_dict()
    return described


def _load_published(section: ModelSection, names: tuple[str, ...] | None) -> Loaded:
    from utils.modeling.base_model import load_base_model
    from utils.modeling.labels import build_head_spec
    from utils.modeling.new_weights import list_new_modules
    from utils.modeling.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(section)
    model = load_base_model(section, tokenizer, None if names is None else build_head_spec(names))
    if new := list_new_modules(model):
        raise ModelError(f"--model {section.name_or_path}: its checkpoint lacks {', '.join(new)}, which were random")
    return Loaded(model, tokenizer, names or ())


def find_max_length(subject: ModelRef, loaded: Loaded) -> int:
    """Find how many tokens a classifier's rows may have: the run's, else the tokenizer's or the model's own."""
    if isinstance(subject.dataset, ClassificationSection):
        return subject.dataset.max_length
    config = loaded.model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= int(config.pad_token_id or 0) + 1  # its positions start behind the pad id
    limits = [int(loaded.tokenizer.model_max_length), *([positions] if isinstance(positions, int) else [])]
    known = [limit for limit in limits if 0 < limit < 10**9]
    return min(known, default=512)
