"""Loads the base model for its task, initializes a new head from the seed, and sets the pad token."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError
from utils.core.json_files import load_object
from utils.modeling.head import (
    HeadSpec,
    grow_embeddings,
    list_new_modules,
    number_labels,
    own_label_names,
    record_new_weights,
    reinitialize_head,
)
from utils.modeling.hub_errors import explain_loading
from utils.modeling.quantization import (
    build_quantization,
    choose_devices,
    explain_hardware,
    pack_for_sharding,
    read_format,
    require_plain_head,
    require_quantized,
)
from utils.modeling.sizes import apply_rope_scaling, counts_problem
from utils.modeling.source import load_config, loading_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

_ENCODER_HEADS = ("ForMaskedLM", "ForPreTraining")


def load_base_model(
    section: ModelSection,
    tokenizer: PreTrainedTokenizerBase,
    head: HeadSpec | None,
    seed: int | None = None,
    sharded: bool = False,
) -> PreTrainedModel:
    """Load the base model as a classifier, or, without a head, as a causal language model.

    It stays on the CPU (the trainer moves it) unless it is quantized or has a device_map. The tokenizer's pad token and
    vocabulary are applied to the model. `seed` initializes the weights that the checkpoint lacks; None keeps the
    library's initialization. `sharded`: the weights will be sharded over processes, which affects how 4-bit weights are
    stored.

    Raises:
        ModelError: The model is unavailable, has no class for the task, or lacks required weights.
    """
    with explain_loading(section), _silent_report():
        arguments, config = loading_arguments(section), load_config(section)
        if wrong := counts_problem(config.to_dict()):
            raise ModelError(f"{section.name_or_path}: {wrong}")
        if section.rope_scaling is not None:
            apply_rope_scaling(config, section.rope_scaling, section.name_or_path)
        _log_code(section, config)
        own_names = own_label_names(config)
        if head is not None:
            _set_labels(config, head)
        model, loading_info = _load(section, config, head, sharded, arguments)
    require_quantized(model)
    require_plain_head(model)
    model.config._commit_hash = arguments.get("revision")  # no longer set by transformers; not saved
    record_new_weights(model, loading_info, head is not None)
    if seed is not None:
        reinitialize_head(model, seed)
    if head is not None:
        _log_head(model, loading_info, own_names, head, seed)
    grow_embeddings(model, tokenizer, seed)
    _set_pad_token(model, tokenizer)
    return model


def _load(
    section: ModelSection,
    config: PreTrainedConfig,
    head: HeadSpec | None,
    sharded: bool,
    arguments: dict[str, Any],
) -> tuple[PreTrainedModel, dict[str, Any]]:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    model_class = _model_class(section, config, head)
    quantization = build_quantization(section, config, model_class, head is not None)
    dtype = pack_for_sharding(quantization, section, config) if quantization and sharded else section.dtype
    auto = AutoModelForCausalLM if head is None else AutoModelForSequenceClassification
    with explain_hardware(section, read_format(vars(config))):
        loaded: tuple[PreTrainedModel, dict[str, Any]] = auto.from_pretrained(
            section.location,
            config=config,
            dtype=dtype,
            attn_implementation=_choose_attention(section, model_class),
            quantization_config=quantization,
            device_map=choose_devices(section, config),
            use_safetensors=None if section.allow_pickle else True,  # pickled weights can run code
            ignore_mismatched_sizes=True,  # record_new_weights tells a new head from a wrong checkpoint
            output_loading_info=True,
            trust_remote_code=section.trust_remote_code,
            # The auto class looks for an adapter first, without passing on local_files_only.
            adapter_kwargs={"local_files_only": arguments.get("local_files_only", False)},
            **arguments,
        )
    if getattr(loaded[0], "_hf_peft_config_loaded", False):
        raise ModelError(f"{section.name_or_path} includes an adapter, which would be overwritten; name its base")
    _require_end_tokens(section, loaded[0])
    return loaded


def _require_end_tokens(section: ModelSection, model: PreTrainedModel) -> None:
    """Raise a ModelError for a damaged generation_config.json, which transformers would ignore with its end tokens."""
    file = Path(section.location) / "generation_config.json"
    if file.is_file():
        load_object(file, error=ModelError)
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    if not all(each is None or (isinstance(each, int) and each >= 0) for each in listed):
        raise ModelError(
            f"{section.name_or_path}: its eos_token_id is {own!r} (generation_config.json or config.json), not a "
            "token's number or a list of them; correct it, or copy the checkpoint again"
        )


def _model_class(section: ModelSection, config: PreTrainedConfig, head: HeadSpec | None) -> Any:
    """Return the model class for the task, or None if the checkpoint ships its own code.

    Raises:
        ModelError: The architecture has no such class, or is an encoder, which cannot generate text.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    if section.trust_remote_code and getattr(config, "auto_map", None):
        return None
    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if head is None else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    kind = type(config)
    named = config.architectures if isinstance(config.architectures, list | tuple) else ()
    made_as = [name for name in named if str(name).endswith(_ENCODER_HEADS)]
    if kind not in mapping or (head is None and made_as):
        task, lacks = ("CAUSAL_LM", "generates no text") if head is None else ("SEQ_CLS", "has no classification head")
        name = f"{section.name_or_path} ({made_as[0] if made_as else config.model_type})"
        remedy = f"it cannot serve task_type {task}; choose another model or another task_type"
        raise ModelError(f"{name} {lacks} in transformers, so {remedy}")
    found = mapping[kind]
    return found[0] if isinstance(found, (tuple, list)) else found


def _choose_attention(section: ModelSection, model_class: Any) -> str:
    import torch

    wanted = section.attn_implementation
    if wanted == "sdpa" and model_class is not None and not model_class._supports_sdpa:
        logger.warning("%s has no sdpa attention; eager attention is used", model_class.__name__)
        return "eager"
    if "flash" in wanted and not torch.cuda.is_available():
        raise ModelError(f"model.attn_implementation: {wanted} needs a CUDA GPU and there is none; use sdpa")
    if wanted == "flex_attention" and not torch.accelerator.is_available():
        raise ModelError(f"model.attn_implementation: {wanted} is compiled for a GPU and there is none; use sdpa")
    return wanted


def _set_labels(config: PreTrainedConfig, head: HeadSpec) -> None:
    names = head.label_names or number_labels(head.num_labels)
    assert len(names) == head.num_labels, f"{head.num_labels} labels but {len(names)} names"
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = head.problem_type


def _set_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the model's pad token, by which a decoder's classifier finds the last real token."""
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def _log_code(section: ModelSection, config: PreTrainedConfig) -> None:
    if not section.trust_remote_code:
        return
    if getattr(config, "auto_map", None):
        logger.warning("Python code that %s ships is run (model.trust_remote_code)", section.name_or_path)
    else:
        logger.info("model.trust_remote_code has no effect: %s ships no code", section.name_or_path)


def _log_head(
    model: PreTrainedModel,
    loading_info: dict[str, Any],
    own_names: tuple[str, ...],
    head: HeadSpec,
    seed: int | None,
) -> None:
    new = list_new_modules(model)
    if loading_info["mismatched_keys"]:
        own = ", ".join(own_names) or "unnamed labels"
        what = "the checkpoint's own head (%s) does not fit %d labels and is replaced by a new one"
        logger.warning(what, own, head.num_labels)
    if new:
        say = logger.debug if seed is None else logger.info  # without a seed, a trained head is about to be loaded
        say("New in the model, drawn from seed %s: %s", seed, ", ".join(new))
    elif own_names and tuple(map(str.lower, own_names)) != tuple(map(str.lower, head.label_names)):
        logger.warning(
            "the checkpoint's head was trained for the labels %s; it is kept and now means %s",
            ", ".join(own_names),
            ", ".join(head.label_names) or "a number",
        )


@contextmanager
def _silent_report() -> Iterator[None]:
    """Keep the library's table of new weights off the terminal; we log one line instead.

    The level is set on the library's root logger, since modeling_utils checks its own logger's level for extra work.
    """
    report = logging.getLogger("transformers")
    level = report.level
    report.setLevel(logging.ERROR)
    try:
        yield
    finally:
        report.setLevel(level)
