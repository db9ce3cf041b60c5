"""peft tuners as methods: a section built from peft's own fields, and a generic attach."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, create_model, model_validator

from utils.adapters import peft_layout
from utils.adapters.adapter import AttachContext, keep_float32
from utils.adapters.targets import (
    QUERY_AND_VALUE,
    choose_layers,
    choose_targets,
    find_layer_conflict,
    list_head,
    list_linear,
    list_norms,
    merge_modules_to_save,
    refuse_new_tokens,
    reject_empty,
    split_names,
    warn_of_unadapted_layers,
)
from utils.config.installed import InstalledField, installed_version, read_fields
from utils.config.section import GENERATED
from utils.config.sections.peft import AdapterSection, Limits
from utils.core import registry
from utils.core.errors import ConfigError, ModelError, Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FLOAT_BASE = "peft computes it on unquantized layers only; drop model.quantization, or use lora"
_CONVERTED: dict[str, Any] = {
    "as_lora": None,
    "serving": "it only takes adapters of lora; convert it by merge_adapter.py --as_lora 32, or merge it",
}
_CHECKED = {
    "target_modules": BeforeValidator(lambda value: split_names(reject_empty(value))),
    "exclude_modules": BeforeValidator(split_names),
    "modules_to_save": BeforeValidator(reject_empty),
}
_FROM_ONE = frozenset(
    {
        "r", "mini_r", "alpha", "randlora_alpha", "n_frequency", "block_size", "group_size", "boft_n_butterfly_factor",
        "num_cayley_neumann_terms", "num_subspaces", "subspace_rank", "adapter_len", "adapter_layers", "gralora_k",
        "num_B", "stride_A", "u", "theta_d_length", "num_vectors", "vector_length", "topk", "shadow_hidden_size",
        "shadow_num_hidden_layers", "shadow_num_attention_heads", "shadow_intermediate_size",
    }
)  # fmt: skip
"""Integers that must be above 0: peft divides by some of them, and with others nothing would be trained."""


@dataclass(frozen=True)
class Tuner:
    """A peft tuner, and how it is used here."""

    class_name: str
    """Its configuration class, in peft.tuners.<method>.config."""
    description: str
    """One sentence on what the method does."""
    source: str
    """Publication of the method."""
    inherits: tuple[str, str] | None = None
    """Module and class of a base class whose fields it has too."""
    learning_rate: float = 1e-3
    """Default learning rate: the best of a few on the embedded base (docs/measurements.md), else 1e-3."""
    takes_quantized: bool = False
    """Whether peft supports it on 4-bit and 8-bit layers."""
    targets: Mapping[str, list[str]] | None = field(default_factory=lambda: QUERY_AND_VALUE, hash=False)
    """Modules to adapt, by model_type, where peft has no default; else all linear layers. None: peft always has one."""
    adapts: Literal["linear layers", "norms", "decoder blocks", "attention modules", "embeddings"] = "linear layers"
    """Kind of modules it adapts; for kinds other than linear layers, peft would fail or train linear targets in
    full."""
    merge: str | None = None
    """Why it cannot be merged."""
    as_lora: bool = False
    """Whether peft can convert its adapters to LoRA."""
    classification: str | None = None
    """Why it does not support classifiers."""
    needs: tuple[str, ...] = ()
    """Fields that are required, since peft has no working default."""
    refuses: Mapping[str, str] = field(default_factory=dict, hash=False)
    """peft options that cannot be enabled here, with the reason."""
    one_of: tuple[str, str] | None = None
    """Two fields each of which determines the other: one of them must be 0."""
    model_types: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Architectures it does not support, by model_type, with the reason."""


class PeftTunerSection(AdapterSection):
    """The section of all methods built from peft tuners."""

    TUNER: ClassVar[Tuner]
    MISSING: ClassVar[str | None] = None
    """Why the method is unavailable, if the installed peft lacks it."""

    @model_validator(mode="before")
    @classmethod
    def _check_installed(cls, values: Any) -> Any:
        if cls.MISSING is not None:
            raise ValueError(cls.MISSING)
        return values

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Return impossible targets, missing or unsupported fields, and redundant sizes that are both set."""
        tuner = self.TUNER
        if tuner.adapts != "linear layers" and getattr(self, "target_modules", None) == "all-linear":
            return {"target_modules": f"{self.method} is for {tuner.adapts}, and all-linear names none; leave it out"}
        if refused := {key: f"not here: {why}" for key, why in tuner.refuses.items() if getattr(self, key, None)}:
            return refused
        if missing := [key for key in tuner.needs if getattr(self, key, None) is None]:
            return dict.fromkeys(missing, f"missing; {self.method} needs it, and peft has no default")
        if (found := find_layer_conflict(self)) or tuner.one_of is None:
            return found
        one, other = tuner.one_of
        sizes = [getattr(self, name) for name in (one, other)]
        if all(sizes):
            remedy = f"set peft.{other}: 0, or leave peft.{one} at 0"
            return {one: f"not beside {other} ({sizes[1]}), each follows from the other; {remedy}"}
        return {} if any(sizes) else {other: f"{one} and {other} are both 0; set one of them"}


def build_config(method: str, tuner: Tuner) -> type[PeftTunerSection]:
    """Build a method's section from the fields of peft's class, without importing peft."""
    found = find_fields(method, tuner)
    fields: dict[str, Any] = {"method": (Literal[method, method.replace("_", "-")], method)}
    for each in found.values():
        kind = each.annotation if each.default is not None else each.annotation | None
        checked = Annotated[kind, _CHECKED[each.name]] if each.name in _CHECKED else kind
        lowest = 0 if each.name in (tuner.one_of or ()) else 1 if each.name in _FROM_ONE else None
        fields[each.name] = (checked, Field(default=each.default, description=each.help or None, ge=lowest))
    config: type[PeftTunerSection] = create_model(
        "Config", __base__=PeftTunerSection, __cls_kwargs__=GENERATED, **fields
    )
    config.__doc__ = tuner.description
    config.TUNER = tuner
    config.MISSING = None if found else _explain_missing(tuner)
    config.DEFAULT_LEARNING_RATE = tuner.learning_rate
    config.NOT_INHERITED = frozenset(() if tuner.adapts == "linear layers" else {"target_modules"})
    config.LIMITS = Limits(
        quantization=None if tuner.takes_quantized else _FLOAT_BASE,
        merge=tuner.merge,
        **_CONVERTED if tuner.as_lora else {},
        classification=tuner.classification,
        model_types=dict(tuner.model_types),
    )
    return config


@cache
def find_fields(method: str, tuner: Tuner) -> dict[str, InstalledField]:
    """Read a tuner's own fields from the installed peft; empty if peft lacks the tuner."""
    try:
        inherited = read_fields(*tuner.inherits) if tuner.inherits else {}
        return {**inherited, **read_fields(_module_of(method), tuner.class_name)}
    except (UserError, FileNotFoundError):
        return {}


def attach(model: PreTrainedModel, config: PeftTunerSection, context: AttachContext) -> PreTrainedModel:
    """Wrap the model with peft's tuner; a new head is trained in full."""
    if config.TUNER.adapts != "embeddings":
        refuse_new_tokens(config.method, context)
    linear = set(list_linear(model, []))
    adapted = _wrap(model, config, _fields_for_peft(model, config, context))
    _check_adapted(adapted, config, linear)
    warn_of_unadapted_layers(adapted, config)
    keep_float32(adapted, context)
    if config.TUNER.adapts == "attention modules":
        # peft binds the current forward, which our loss will replace.
        adapted.base_model.forward = lambda *args, **kwargs: adapted.base_model.model.forward(*args, **kwargs)
    return adapted


def _wrap(model: PreTrainedModel, config: PeftTunerSection, fields: dict[str, Any]) -> Any:
    from peft import get_peft_model

    try:
        with peft_layout.explain_targets(model, getattr(config, "target_modules", None)):
            peft_config = getattr(importlib.import_module(_module_of(config.method)), config.TUNER.class_name)(**fields)
            return get_peft_model(peft_layout.preserve_quantized(model), peft_config)
    except (ValueError, AssertionError, AttributeError, NotImplementedError, ImportError) as error:  # odd sizes
        raise ModelError(f"peft refuses {config.method} on this model: {' '.join(str(error).split())}") from error


def _check_adapted(adapted: Any, config: PeftTunerSection, linear: set[str]) -> None:
    """Check that the tuner trains something and, if it is not for linear layers, that it adapts none of them.

    Raises:
        ModelError: It does not.
    """
    adapts, names = config.TUNER.adapts, getattr(adapted.base_model, "targeted_module_names", ())  # some have none
    if adapts in ("norms", "decoder blocks") and (wrong := linear & set(names)):
        message = f"{min(wrong)} is a linear layer, and {config.method} is for {adapts}; leave it out"
        raise ModelError(f"peft.target_modules: {message}")
    if not any(part.requires_grad and "modules_to_save" not in name for name, part in adapted.named_parameters()):
        kinds = "layers that it can adapt, or only transformers' Conv1D"  # OSF skips Conv1D layers silently
        raise ModelError(f"peft.target_modules: {config.method} trains nothing in this model, which has no {kinds}")


def _fields_for_peft(model: PreTrainedModel, config: PeftTunerSection, context: AttachContext) -> dict[str, Any]:
    found = find_fields(registry.normalize(config.method), config.TUNER)
    head = list_head(model, context)
    fields = {
        name: getattr(config, name)
        for name, each in found.items()
        if each.is_default_known or getattr(config, name) is not None
    }
    if config.TUNER.adapts == "embeddings":
        chosen = _choose_tokens(model, fields["token_indices"], context)
        fields |= chosen if fields["target_modules"] is None else {"token_indices": chosen["token_indices"]}
    elif config.TUNER.adapts == "norms":
        fields["target_modules"] = fields["target_modules"] or list_norms(model, head)
    elif (ours := config.TUNER.targets) is not None:
        targets = choose_targets(model, fields["target_modules"], _known_types(config.method), ours)
        fields["target_modules"] = targets
    if "layers_to_transform" in found:
        fields |= choose_layers(model, config, fields["target_modules"], head)
    if fields.get("target_modules") == "all-linear" and head:
        fields["target_modules"] = list_linear(model, head)
    if "modules_to_save" in found:
        fields["modules_to_save"] = merge_modules_to_save(head, fields["modules_to_save"])
    return {**fields, "task_type": context.task_type, "revision": context.base_commit}


def _choose_tokens(model: PreTrainedModel, written: list[int], context: AttachContext) -> dict[str, Any]:
    """Choose the tokens to train, including added tokens, which are trained in the output layer as well.

    Raises:
        ConfigError: No tokens are given, or the model has no such token.
    """
    chosen, size = sorted({*written, *context.added_token_ids}), model.get_input_embeddings().num_embeddings
    if not chosen:
        message = "is empty; name ids of tokens to train, or add tokens by model.extra_special_tokens"
        raise ConfigError([Problem(message, "peft.token_indices")])
    if absent := [each for each in chosen if not 0 <= each < size]:
        raise ConfigError([Problem(f"no token {absent[0]}: the model has {size}, from 0", "peft.token_indices")])
    read, written_by = model.get_input_embeddings(), model.get_output_embeddings()
    is_apart = written_by is not None and written_by.weight is not read.weight  # peft handles a shared weight itself
    parts = (read, written_by) if is_apart else (read,)
    names = [name for name, part in model.named_modules() if part in parts]
    return {"token_indices": chosen} | ({"target_modules": names} if context.added_token_ids else {})


def _known_types(method: str) -> frozenset[str]:
    """Return the model types for which peft has default targets of the tuner."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import PeftType

    model_class = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(registry.normalize(method).upper())]
    return frozenset(getattr(model_class, "target_module_mapping", None) or ())


def _module_of(method: str) -> str:
    return f"peft.tuners.{registry.normalize(method)}.config"


def _explain_missing(tuner: Tuner) -> str:
    version = installed_version("peft") or "none"
    return f"the installed peft ({version}) has no {tuner.class_name}; update it, or use lora"
