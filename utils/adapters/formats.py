"""Which methods can adapt a checkpoint that is stored in few bits already, by what the installed peft can wrap."""

from __future__ import annotations

from utils.config.sections.adapter import AdapterSection
from utils.core import registry

_WRAPPED = ("gptq", "awq", "aqlm", "eetq", "hqq", "torchao")
"""Formats whose layers are peft's to wrap one by one; others keep layers that look like linear ones."""
_ADAPTS = {
    "lora": _WRAPPED,
    "vera": _WRAPPED,
    "oft": _WRAPPED,
    "boft": _WRAPPED,
    "miss": _WRAPPED,
    "adalora": ("gptq",),
}
_WRAP_NOTHING = ("qst", "prefix_tuning", "prompt_tuning", "p_tuning")
"""Methods that leave the packed layers as they are."""
_WITHOUT_DORA = ("gptq", "awq", "aqlm", "eetq")


def format_problem(section: AdapterSection, stored: str, name: str) -> str | None:
    """Say why a method cannot be trained on a quantized checkpoint; None: it can, as far as is known.

    Args:
        section: The `peft:` section.
        stored: The checkpoint's format: `gptq`, `awq`, `nf4` ...
        name: The checkpoint, as the user named it.
    """
    method = registry.normalize(section.method)
    unquantized = "name the unquantized checkpoint"
    if reason := section.LIMITS.quantization:
        reason = reason.replace("drop model.quantization", unquantized)
        return f"{section.method} not on {name}, which is stored as {stored}; {reason}"
    if stored not in _WRAPPED or method in _WRAP_NOTHING:
        return None
    if stored not in _ADAPTS.get(method, ()):
        return (
            f"{section.method} not on {name}, which is stored as {stored}: peft cannot wrap its layers for "
            f"this method; use lora, or {unquantized} with model.quantization: nf4"
        )
    if getattr(section, "use_dora", False) and stored in _WITHOUT_DORA:
        return f"DoRA not on {name}, which is stored as {stored}; set peft.use_dora: false, or {unquantized}"
    return None
