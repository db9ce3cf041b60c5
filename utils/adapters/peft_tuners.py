"""peft's other tuners, each a method by its own name and with its own fields, checked against the installed peft.

A row of the table says which class of peft it is and what there is to know about it here; what there is to say of its
fields stands in peft.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
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
    refuse_new_tokens,
    reject_empty,
    split_names,
    train_whole,
    warn_of_idle_layers,
)
from utils.config.installed import InstalledField, installed_version, read_fields
from utils.config.sections.peft import AdapterSection, Limits
from utils.core import registry
from utils.core.errors import ModelError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FLOAT_BASE = "peft computes it on unquantized layers only; drop model.quantization, or use lora"
_CHECKED = {
    "target_modules": BeforeValidator(lambda value: split_names(reject_empty(value))),
    "modules_to_save": BeforeValidator(reject_empty),
}
_FROM_ONE = frozenset(
    {
        "r", "mini_r", "alpha", "randlora_alpha", "n_frequency", "block_size", "group_size", "boft_n_butterfly_factor",
        "num_cayley_neumann_terms", "shadow_num_hidden_layers", "shadow_hidden_size", "shadow_num_attention_heads",
        "shadow_intermediate_size",
    }
)  # fmt: skip
"""Whole numbers, all above 0; peft divides by some of them, and with others nothing is left to train."""


@dataclass(frozen=True)
class Tuner:
    """Where a tuner stands in peft."""

    class_name: str
    """Its configuration class, in peft.tuners.<method>.config."""
    description: str
    """A sentence: what the method does."""
    source: str
    """Where it was published."""
    inherits: tuple[str, str] | None = None
    """Module and class of a base whose fields it takes too."""
    learning_rate: float = 1e-3
    """Taken where the file sets none: the best of a few on the embedded base (docs/measurements.md)."""
    takes_quantized: bool = False
    """Whether peft has it for layers of 4 or 8 bits."""
    targets: Mapping[str, list[str]] | None = field(default_factory=lambda: QUERY_AND_VALUE, hash=False)
    """What it adapts by model_type, where peft does not know; else all linear layers. None: peft always knows."""
    adapts: Literal["linear layers", "norms", "decoder blocks"] = "linear layers"
    """What target_modules names; peft would break, or train a layer whole, where it names linear layers instead."""
    merge: str | None = None
    """Why it cannot be merged."""
    one_of: tuple[str, str] | None = None
    """Two fields of which each follows from the other: one of them is 0."""
    model_types: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Where it does not work, by model_type, with the reason."""


_NO_ENCODERS = dict.fromkeys(
    ("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"),
    "it rides the loop of a decoder's layers; use lora",
)
_LYCORIS = ("peft.tuners.lycoris_utils", "LycorisConfig")

TABLE: dict[str, Tuner] = {
    "boft": Tuner(
        "BOFTConfig", "Weights turned by trained orthogonal butterfly factors.",
        "Liu et al. 2023, arXiv:2311.06243", takes_quantized=True, one_of=("boft_block_size", "boft_block_num"),
    ),
    "c3a": Tuner(
        "C3AConfig", "An update of circulant blocks; block_size has to divide the layers' sizes.",
        "Chen et al. 2024, arXiv:2407.19342", learning_rate=3e-2,
    ),
    "delora": Tuner(
        "DeloraConfig", "A low-rank update whose direction and strength are trained apart.",
        "Bini et al. 2025, arXiv:2503.18225",
    ),
    "fourierft": Tuner(
        "FourierFTConfig", "An update with few trained coefficients in the Fourier domain.",
        "Gao et al. 2024, arXiv:2405.03003", learning_rate=1e-1,
    ),
    "hra": Tuner(
        "HRAConfig", "Weights turned by a chain of trained Householder reflections.",
        "Yuan et al. 2024, arXiv:2405.17484", learning_rate=1e-2,
    ),
    "ln_tuning": Tuner(
        "LNTuningConfig", "The layers' norms are trained, nothing else of the body.",
        "Zhao et al. 2023, arXiv:2312.11420", learning_rate=1e-2, adapts="norms",
    ),
    "loha": Tuner(
        "LoHaConfig", "The elementwise product of two low-rank updates.",
        "Hyeon-Woo et al. 2021, arXiv:2108.06098", learning_rate=1e-2, inherits=_LYCORIS,
    ),
    "lokr": Tuner(
        "LoKrConfig", "The Kronecker product of two small updates.",
        "Yeh et al. 2023, arXiv:2309.14859", learning_rate=1e-2, inherits=_LYCORIS,
    ),
    "miss": Tuner(
        "MissConfig", "One trained matrix per layer, shared among shards of its weight.",
        "Kang and Yin 2024, arXiv:2409.15371", takes_quantized=True,
    ),
    "oft": Tuner(
        "OFTConfig", "Weights turned by trained orthogonal blocks.",
        "Qiu et al. 2023, arXiv:2306.07280", takes_quantized=True, one_of=("r", "oft_block_size"),
    ),
    "randlora": Tuner(
        "RandLoraConfig", "A full-rank update: trained scales of fixed random low-rank matrices.",
        "Albert et al. 2025, arXiv:2502.00987", takes_quantized=True,
    ),
    "road": Tuner(
        "RoadConfig", "Outputs turned in pairs by trained angles; group_size has to divide the layers' sizes.",
        "Liao and Monz 2024, arXiv:2409.00119", learning_rate=1e-2, takes_quantized=True,
    ),
    "shadow": Tuner(
        "ShadowConfig", "A small trained model beside a decoder, which corrects the input of every layer.",
        "peft's documentation of the tuner", targets=None, adapts="decoder blocks",
        merge="a shadow model computes beside the base and changes none of its weights; use the adapter on its base",
        model_types=_NO_ENCODERS,
    ),
    "vera": Tuner(
        "VeraConfig", "Trained vectors that scale two random matrices which all layers share.",
        "Kopiczko et al. 2023, arXiv:2310.11454", learning_rate=1e-2, takes_quantized=True,
    ),
    "waveft": Tuner(
        "WaveFTConfig", "An update with few trained coefficients in the wavelet domain.",
        "Bilican et al. 2025, arXiv:2505.12532",
    ),
}  # fmt: skip
"""By method."""


@cache
def load_plugin(name: str) -> SimpleNamespace:
    """Give a row as what a method's module offers: Config, attach, save, load and, where it can be merged, merge."""
    tuner = TABLE[name]
    config = build_config(name, tuner)
    merge = {} if tuner.merge else {"merge": peft_layout.merge}
    return SimpleNamespace(
        __doc__=f"{tuner.description}\n\nSource: {tuner.source}.",
        Config=config,
        attach=attach,
        save=peft_layout.save,
        load=peft_layout.load,
        **merge,
    )


class PeftTunerSection(AdapterSection):
    """What all passed-through methods have in common."""

    TUNER: ClassVar[Tuner]
    MISSING: ClassVar[str | None] = None
    """Why the method cannot be had, where the installed peft lacks it."""

    @model_validator(mode="before")
    @classmethod
    def _is_installed(cls, values: Any) -> Any:
        if cls.MISSING is not None:
            raise ValueError(cls.MISSING)
        return values

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Find two sizes that are both set, or neither, where each follows from the other; and impossible targets."""
        adapts = self.TUNER.adapts
        if adapts != "linear layers" and getattr(self, "target_modules", None) == "all-linear":
            return {"target_modules": f"{self.method} is for {adapts}, and all-linear names none; leave it out"}
        if (found := find_layer_conflict(self)) or self.TUNER.one_of is None:
            return found
        one, other = self.TUNER.one_of
        sizes = [getattr(self, name) for name in (one, other)]
        if all(sizes):
            remedy = f"set peft.{other}: 0, or leave peft.{one} at 0"
            return {one: f"not beside {other} ({sizes[1]}), each follows from the other; {remedy}"}
        return {} if any(sizes) else {other: f"{one} and {other} are both 0; set one of them"}


def build_config(method: str, tuner: Tuner) -> type[PeftTunerSection]:
    """Build a method's section from the fields of peft's class; peft itself is not imported."""
    found = find_fields(method, tuner)
    fields: dict[str, Any] = {"method": (Literal[method, method.replace("_", "-")], method)}
    for each in found.values():
        kind = each.annotation if each.is_default_known else each.annotation | None
        checked = Annotated[kind, _CHECKED[each.name]] if each.name in _CHECKED else kind
        lowest = 0 if each.name in (tuner.one_of or ()) else 1 if each.name in _FROM_ONE else None
        fields[each.name] = (checked, Field(default=each.default, description=each.help or None, ge=lowest))
    config: type[PeftTunerSection] = create_model("Config", __base__=PeftTunerSection, **fields)
    config.__doc__ = tuner.description
    config.TUNER = tuner
    config.MISSING = None if found else _explain_missing(tuner)
    config.DEFAULT_LEARNING_RATE = tuner.learning_rate
    config.NOT_INHERITED = frozenset(() if tuner.adapts == "linear layers" else {"target_modules"})
    config.LIMITS = Limits(
        quantization=None if tuner.takes_quantized else _FLOAT_BASE,
        merge=tuner.merge,
        model_types=dict(tuner.model_types),
    )
    return config


@cache
def find_fields(method: str, tuner: Tuner) -> dict[str, InstalledField]:
    """Read a tuner's own fields from the installed peft; empty where it has no such tuner."""
    try:
        inherited = read_fields(*tuner.inherits) if tuner.inherits else {}
        return {**inherited, **read_fields(_module_of(method), tuner.class_name)}
    except (UserError, FileNotFoundError):
        return {}


def attach(model: PreTrainedModel, config: PeftTunerSection, context: AttachContext) -> PreTrainedModel:
    """Wrap the model by peft's tuner; a new head is trained whole."""
    from peft import get_peft_model

    tuner = config.TUNER
    refuse_new_tokens(config.method, context)
    fields = _fields_for_peft(model, config, context)
    targets = getattr(config, "target_modules", None)
    linear = set(list_linear(model, []))
    try:
        with peft_layout.explain_targets(model, targets):
            peft_config = getattr(importlib.import_module(_module_of(config.method)), tuner.class_name)(**fields)
            adapted: Any = get_peft_model(peft_layout.keep_unpacked(model), peft_config)
    except (ValueError, AssertionError, AttributeError, NotImplementedError, ImportError) as error:  # odd sizes, say
        raise ModelError(f"peft refuses {config.method} on this model: {' '.join(str(error).split())}") from error
    if tuner.adapts != "linear layers" and (wrong := linear & set(adapted.base_model.targeted_module_names)):
        message = f"{min(wrong)} is a linear layer, and {config.method} is for {tuner.adapts}; leave it out"
        raise ModelError(f"peft.target_modules: {message}")
    warn_of_idle_layers(adapted, config)
    keep_float32(adapted, context)
    return adapted  # type: ignore[no-any-return]  # Any: its parts are made at run time


def _fields_for_peft(model: PreTrainedModel, config: PeftTunerSection, context: AttachContext) -> dict[str, Any]:
    found = find_fields(registry.normalize(config.method), config.TUNER)
    head = list_head(model, context)
    fields = {
        name: getattr(config, name)
        for name, each in found.items()
        if each.is_default_known or getattr(config, name) is not None
    }
    if config.TUNER.adapts == "norms":
        fields["target_modules"] = fields["target_modules"] or list_norms(model, head)
    elif (ours := config.TUNER.targets) is not None:
        targets = choose_targets(model, fields["target_modules"], _known_types(config.method), ours)
        fields["target_modules"] = targets
    if "layers_to_transform" in found:
        fields |= choose_layers(model, config, fields["target_modules"], head)
    if fields.get("target_modules") == "all-linear" and head:
        fields["target_modules"] = list_linear(model, head)
    fields["modules_to_save"] = train_whole(head, fields["modules_to_save"])
    return {**fields, "task_type": context.task_type, "revision": context.base_commit}


def _known_types(method: str) -> frozenset[str]:
    """Give the model types for which peft knows the tuner's targets."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import PeftType

    mapping = getattr(
        PEFT_TYPE_TO_TUNER_MAPPING[PeftType(registry.normalize(method).upper())], "target_module_mapping", None
    )
    return frozenset(mapping or ())


def _module_of(method: str) -> str:
    return f"peft.tuners.{registry.normalize(method)}.config"


def _explain_missing(tuner: Tuner) -> str:
    version = installed_version("peft") or "none"
    return f"the installed peft ({version}) has no {tuner.class_name}; update it, or use lora"
