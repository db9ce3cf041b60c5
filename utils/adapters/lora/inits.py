"""The initializations of LoRA's matrices by name, with their requirements and conflicts.

PiSSA: Meng et al. 2024, arXiv:2404.02948; OLoRA: Buyukakyuz 2024, arXiv:2406.01775; EVA: Paischer et al. 2024,
arXiv:2410.07170; CorDA: Yang et al. 2024, arXiv:2406.05223; LoRA-GA: Wang et al. 2024, arXiv:2407.05000; LoftQ: Li et
al. 2023, arXiv:2310.08659; MiCA: arXiv:2604.01694.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from utils.config.error_messages import suggest

if TYPE_CHECKING:
    from utils.adapters.lora import Config

INITS = (
    "gaussian", "pissa", "pissa_niter_16", "olora", "orthogonal", "eva", "corda", "lora_ga", "loftq", "mica",
)  # fmt: skip
"""All names; the number in `pissa_niter_16` is variable."""
ONLY_FOR = {
    **dict.fromkeys(("init_rows", "init_cache"), ("eva", "corda", "lora_ga")),
    **dict.fromkeys(("lora_ga_direction", "lora_ga_scale", "lora_ga_stable_gamma"), ("lora_ga",)),
    "init_batch_size": ("eva", "lora_ga"), "eva_rho": ("eva",), "corda_method": ("corda",),
}  # fmt: skip
"""Settings that only some initializations read."""
_REWRITE = ("pissa", "olora", "corda", "lora_ga")
_NO_QUANTIZED = {
    **dict.fromkeys(
        _REWRITE,
        "subtracts its start from the base's own weights, and the rest cannot be stored in 4 or 8 bits exactly",
    ),
    "mica": "needs the base's own weights, which are packed",
    "orthogonal": "is drawn in the base's own number format, which is packed",
}


def parse_init(value: bool | str) -> bool | str:
    """Parse an initialization's name as peft spells it.

    Raises:
        ValueError: There is no such initialization.
    """
    if isinstance(value, bool):
        return value
    name = value.strip().lower().replace("-", "_")
    if name in ("true", "false"):
        return name == "true"
    if name in INITS or re.fullmatch(r"pissa_niter_[1-9]\d*", name):
        return name
    if name.startswith("pissa_niter"):
        raise ValueError(f"{value}: add the number of iterations, such as pissa_niter_16")
    raise ValueError(f"no initialisation called {value}{suggest(name, [*INITS, 'true', 'false'])}")


def kind_of(init: bool | str) -> str:
    """Return an initialization's name without its number of iterations; empty for true and false."""
    return init.split("_niter_")[0] if isinstance(init, str) else ""


def rewrites_base(init: bool | str) -> bool:
    """Return whether the initialization changes the base's weights, so that the adapter is converted when saved."""
    return kind_of(init) in _REWRITE


def refuse_quantized(init: bool | str) -> str | None:
    """Explain why an initialization does not work on a quantized base, or return None if it does."""
    why = _NO_QUANTIZED.get(kind_of(init))
    return f"{init} cannot be used with a quantized base: it {why}; use eva, loftq (4 bits) or true" if why else None


def find_conflict(section: Config, quantization: str | None) -> str | None:
    """Describe what the section's initialization conflicts with, given the base's quantization, or return None."""
    init, kind = section.init_lora_weights, kind_of(section.init_lora_weights)
    if section.use_qalora and init is not True:
        return "peft initializes A itself for use_qalora; leave it out"
    if quantization is not None and (why := refuse_quantized(init)):
        return why
    if kind == "loftq" and quantization not in ("nf4", "fp4"):
        return "loftq starts from the error of a 4-bit base; set model.quantization: nf4, or choose pissa"
    odd = [str(rank) for rank in (section.lora_r, *section.rank_pattern.values()) if rank % 2]
    if kind == "orthogonal" and odd:
        return f"orthogonal needs even ranks, found {', '.join(odd)}"
    if rewrites_base(init) and section.use_rslora and (section.rank_pattern or section.alpha_pattern):
        return (
            f"{init} is not with use_rslora beside rank_pattern or alpha_pattern: it is saved at twice the rank, and "
            "these scales would not come along; take one of them out"
        )
    if kind in ("mica", "loftq") and section.use_dora:
        return f"{init} cannot be used with use_dora: peft cannot combine them; use eva or true"
    return None
