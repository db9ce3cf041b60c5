"""LoRA and its variants DoRA, rsLoRA, QA-LoRA and LoRA+, with every initialization that peft has.

Source: Hu et al. 2021, arXiv:2106.09685; DoRA: Liu et al. 2024, arXiv:2402.09353; rsLoRA: Kalajdzievski 2023,
arXiv:2312.03732; QA-LoRA: Xu et al. 2023, arXiv:2309.14717; LoRA+: Hayou et al. 2024, arXiv:2402.12354.
Initializations: see `inits`.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from utils.adapters.adapter import AttachContext, keep_float32
from utils.adapters.lora.inits import ONLY_FOR, find_conflict, kind_of, parse_init
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save
from utils.adapters.targets import (
    LayersSection,
    choose_layers,
    choose_targets,
    find_layer_conflict,
    list_head,
    merge_modules_to_save,
    warn_of_unadapted_layers,
)
from utils.config.sections.peft import Limits
from utils.core.errors import ConfigError, ModelError, Problem

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class Config(LayersSection):
    """Low-rank adaptation: W + (lora_alpha / lora_r) * B @ A with W frozen."""

    ALIASES: ClassVar[dict[str, str]] = {
        **LayersSection.ALIASES, "r": "lora_r", "rank": "lora_r", "lora_rank": "lora_r",
        "resume_adapter": "adapter_path", "adapter_name_or_path": "adapter_path",
    }  # fmt: skip

    SAVED_AS: ClassVar[str | None] = "lora"
    LIMITS: ClassVar[Limits] = Limits(serving=None, as_lora=None)

    method: Literal["lora"] = "lora"
    lora_r: int = Field(8, ge=1)
    """Rank of the update."""
    lora_alpha: float = Field(16, gt=0)
    """The update is scaled by lora_alpha / lora_r (by lora_alpha / sqrt(lora_r) with use_rslora)."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the update's input."""
    target_modules: str | list[str] | None = None
    """Module names, a regular expression, or `all-linear`; null: query and value, as peft maps the architecture."""
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    """Ranks of individual modules: {'model.layers.0.self_attn.q_proj': 16}."""
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    """Alphas of individual modules."""
    init_lora_weights: bool | str = True
    """Initialization of A and B. true: B zero, A Kaiming uniform; false: both random, so the start is not the
    pretrained model; gaussian: A normal; orthogonal: both random with a product of zero; mica: B from the weight's
    smallest singular vectors, frozen; pissa (pissa_niter_16: faster, with that many iterations): its largest singular
    values; olora: its QR decomposition; loftq: the quantization error of a 4-bit base. eva, corda and lora_ga use
    training rows (init_rows): the principal components of the inputs, the weight projected by the inputs' covariance,
    and the gradient. pissa, olora, corda and lora_ga subtract their start from the base; they are saved at twice the
    rank, for the unmodified base."""
    init_rows: int = Field(256, ge=1)
    """Training rows, sampled with the seed, that eva, corda and lora_ga use."""
    init_batch_size: int = Field(8, ge=1)
    """Batch size of these rows for eva and lora_ga."""
    init_cache: bool = False
    """Cache what eva, corda and lora_ga compute from the rows in the cache folder (LORA_NS_CACHE), and reuse it if
    base, rows and settings are the same."""
    eva_rho: float = Field(2.0, ge=1)
    """eva: a layer's rank may grow up to lora_r * eva_rho if its inputs vary most, at the cost of others; 1: fixed
    ranks."""
    corda_method: Literal["ipm", "kpm"] = "ipm"
    """corda: ipm trains the directions that the rows' inputs use most, kpm those they use least, to preserve
    knowledge."""
    lora_ga_direction: Literal["ArB2r", "A2rBr", "ArBr", "random"] = "ArB2r"
    """lora_ga: which of the gradient's singular vectors become A and which B."""
    lora_ga_scale: Literal["stable", "weight_svd", "gd_scale", "unit"] = "stable"
    """lora_ga: scaling of the initial matrices."""
    lora_ga_stable_gamma: int = Field(16, ge=1)
    """lora_ga with stable: the larger, the smaller the initial matrices."""
    loraplus_lr_ratio: float | None = Field(None, gt=0)
    """LoRA+: B's learning rate is learning_rate times this (16 in the paper), A's is learning_rate; null: no LoRA+."""
    loraplus_lr_embedding: float = Field(1e-6, gt=0)
    """LoRA+: learning rate of A and B on embeddings."""
    use_dora: bool = False
    """Train magnitude and direction separately (DoRA)."""
    use_rslora: bool = False
    """Scale by 1 / sqrt(lora_r), which keeps high ranks stable (rsLoRA)."""
    use_qalora: bool = False
    """Average A's inputs over groups, matching the group-wise scales of a GPTQ base (QA-LoRA); for such bases only."""
    qalora_group_size: int = Field(16, ge=1)
    """use_qalora: inputs per group; must divide the layers' input sizes."""

    @field_validator("init_lora_weights", mode="before")
    @classmethod
    def _spell_init(cls, value: Any) -> Any:
        return parse_init(value) if isinstance(value, (bool, str)) else value

    def find_unservable(self) -> str | None:
        """Describe the setting that keeps a server from loading the saved adapter, or None if it can be served."""
        odd = {"use_dora": self.use_dora, "bias": self.bias != "none", "modules_to_save": self.modules_to_save}
        if not (found := [name for name, value in odd.items() if value]):
            return None
        return f"not with {found[0]}; merge it into its base by merge_adapter.py, and serve the merged model"

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Return impossible layers, and conflicts of the chosen initialization."""
        found = find_layer_conflict(self)
        if conflict := find_conflict(self, quantization):
            found["init_lora_weights"] = conflict
        if self.init_lora_weights == "mica" and self.loraplus_lr_ratio is not None:
            found["loraplus_lr_ratio"] = "cannot be used with init_lora_weights: mica, which freezes B; leave it out"
        if self.use_qalora and self.use_dora:
            found["use_qalora"] = "cannot be used with use_dora: peft cannot combine them; leave one of them out"
        return found

    def find_unused(self) -> dict[str, str]:
        """Return keys that the chosen initialization, or a run without LoRA+, does not read, each with the reason."""
        kind = kind_of(self.init_lora_weights)
        idle = {
            key: f"it is for init_lora_weights: {' or '.join(kinds)}"
            for key, kinds in ONLY_FOR.items()
            if kind not in kinds
        }
        if self.loraplus_lr_ratio is None:
            idle["loraplus_lr_embedding"] = "loraplus_lr_ratio is not set"
        if not self.use_qalora:
            idle["qalora_group_size"] = "use_qalora is not set"
        fields = type(self).model_fields
        return {key: why for key, why in idle.items() if getattr(self, key) != fields[key].default}

    def learning_rates(self, model: PreTrainedModel, learning_rate: float) -> dict[str, float]:
        """Return LoRA+'s learning rates of B, and of adapters of embeddings."""
        if self.loraplus_lr_ratio is None:
            return {}
        rates = {"lora_B": learning_rate * self.loraplus_lr_ratio}
        rates |= dict.fromkeys(("lora_embedding_A", "lora_embedding_B"), self.loraplus_lr_embedding)
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        return {name: rate for part, rate in rates.items() for name in names if f".{part}." in name}


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Wrap the model with peft; head and biases become trainable as configured, all other weights are frozen."""
    from peft import get_peft_model

    from utils.adapters.lora.init_model import attach_with_init
    from utils.adapters.peft_layout import explain_targets, preserve_quantized

    with explain_targets(model, config.target_modules):
        peft_config = _build_peft_config(model, config, context)
        _refuse_nested(model, peft_config.modules_to_save or [])
        adapted: PreTrainedModel
        if config.init_lora_weights in (True, False, "gaussian"):
            adapted = get_peft_model(preserve_quantized(model), peft_config)
        else:
            adapted = attach_with_init(preserve_quantized(model), peft_config, config, context)
    _warn_of_unmatched_names(adapted, config)
    warn_of_unadapted_layers(adapted, config)
    keep_float32(adapted, context)
    return adapted


def _build_peft_config(model: PreTrainedModel, config: Config, context: AttachContext) -> LoraConfig:
    from peft import LoraConfig
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    head = list_head(model, context)
    return LoraConfig(
        task_type=context.task_type,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        **choose_layers(model, config, choose_targets(model, config.target_modules, KNOWN), head),
        exclude_modules=config.exclude_modules,
        bias=config.bias,
        modules_to_save=merge_modules_to_save(head, config.modules_to_save),
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern=dict(config.alpha_pattern),
        init_lora_weights=True if config.init_lora_weights == "loftq" else config.init_lora_weights,
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        use_qalora=config.use_qalora,
        qalora_group_size=config.qalora_group_size,
        trainable_token_indices=_find_new_tokens(model, context, config.modules_to_save),
        revision=context.base_commit,
        **_init_settings(config),
    )


def _init_settings(config: Config) -> dict[str, Any]:
    """Build the settings of a data-dependent initialization."""
    from peft import EvaConfig
    from peft.tuners.lora.config import CordaConfig, LoraGAConfig

    match kind_of(config.init_lora_weights):
        case "eva":
            return {"eva_config": EvaConfig(rho=config.eva_rho, use_label_mask=False)}
        case "corda":
            return {"corda_config": CordaConfig(corda_method=config.corda_method)}
        case "lora_ga":
            gamma = config.lora_ga_stable_gamma
            settings = LoraGAConfig(config.lora_ga_direction, config.lora_ga_scale, gamma)
            return {"lora_ga_config": settings}
    return {}


def _find_new_tokens(
    model: PreTrainedModel, context: AttachContext, modules_to_save: list[str] | None
) -> dict[str, list[int]] | None:
    """Choose which new rows of embeddings are trained: in a language model those of the output layer as well.

    Modules that are trained in full are skipped.

    Raises:
        ConfigError: Only one of two modules that share a weight is trained in full, so the other would not follow.
    """
    if not context.added_token_ids:
        return None
    embeddings = [model.get_input_embeddings()]
    head = model.get_output_embeddings() if not context.has_new_head else None
    if head is not None:
        embeddings.append(head)
    names = sorted(name for name, module in model.named_modules() if any(module is each for each in embeddings))
    left = [name for name in names if not any(f".{name}".endswith(f".{each}") for each in modules_to_save or [])]
    if head is not None and head.weight is embeddings[0].weight:
        if len(left) == 1:
            both = " and ".join(name.rsplit(".", 1)[-1] for name in names)
            message = f"{both} share their weight; with new tokens name both, or none: the tokens' rows are trained"
            raise ConfigError([Problem(message, "peft.modules_to_save")])
        left = [name for name in left if model.get_submodule(name) is embeddings[0]]
    return {name.rsplit(".", 1)[-1]: list(context.added_token_ids) for name in left} or None


def _warn_of_unmatched_names(model: PreTrainedModel, config: Config) -> None:
    """Warn of names that match no module, which peft ignores silently."""
    literal = {key: getattr(config, key) for key in ("target_modules", "exclude_modules", "modules_to_save")}
    written = {key: [re.escape(name) for name in names] for key, names in literal.items() if isinstance(names, list)}
    written |= {"rank_pattern": list(config.rank_pattern), "alpha_pattern": list(config.alpha_pattern)}
    modules = [name for name, _ in model.named_modules()]
    for key, patterns in written.items():
        idle = [each for each in patterns if not any(re.fullmatch(rf"(.*\.)?({each})", name) for name in modules)]
        if idle:
            names = ", ".join(each.replace("\\", "") for each in idle)
            logger.warning("peft.%s: the model has no module %s; it has no effect", key, names)


def _refuse_nested(model: PreTrainedModel, modules_to_save: list[str]) -> None:
    """Reject names that match nested modules, since peft matches by suffix and could not reload the adapter."""
    for name in modules_to_save:
        found = [each for each, _ in model.named_modules() if each.endswith(name)]
        for outer in found:
            if inner := next((each for each in found if each.startswith(f"{outer}.")), None):
                raise ModelError(f"peft.modules_to_save: {name} fits {outer} and {inner} inside it; name one in full")
