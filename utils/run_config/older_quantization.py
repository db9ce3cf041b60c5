"""bitsandbytes' own spelling of quantization, wherever other frameworks write it: read as model.quantization."""

from __future__ import annotations

from typing import Any

from utils.config.document import KeyPath
from utils.run_config.rewriter import Rewriter

_QUANTIZATION: KeyPath = ("model", "quantization")
_PARENTS: tuple[KeyPath, ...] = ((), ("training",), ("model",), _QUANTIZATION)
_FOUR_BIT_KEYS = {
    "bnb_4bit_quant_type": "type",
    "bnb_4bit_use_double_quant": "double_quant",
    "bnb_4bit_compute_dtype": "compute_dtype",
}
_ON, _OFF = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "none")


def rewrite_quantization(rewriter: Rewriter) -> None:
    """Read bitsandbytes' own spelling; its 4-bit options mean nothing while load_in_4bit is false."""
    document = rewriter.document
    _drop_lower_quantization(rewriter)
    switches = [_take_switch(rewriter, bits, parent) for parent in _PARENTS for bits in (4, 8)]
    written = document.get(_QUANTIZATION)
    four_bits = isinstance(written, dict) and written.get("bits", 4) == 4
    wanted = four_bits and (True in switches or False not in switches)
    for parent in _PARENTS:
        for old, new in _FOUR_BIT_KEYS.items():
            if wanted or isinstance(written, str):
                rewriter.move((*parent, old), (*_QUANTIZATION, new))
            elif document.has((*parent, old)):
                rewriter.leave_out((*parent, old), "has no effect without 4 bits; left out")
    if document.get(_QUANTIZATION) == {}:
        document.set(_QUANTIZATION, None, rewriter.place(_QUANTIZATION))


def _drop_lower_quantization(rewriter: Rewriter) -> None:
    """Forget what a lower layer says of the number of bits where an upper one says otherwise, by whatever name."""
    document = rewriter.document
    found = [
        ((*parent, f"load_in_{bits}bit"), bits)
        for parent in _PARENTS
        for bits in (4, 8)
        if document.has((*parent, f"load_in_{bits}bit"))
    ]
    for path, bits in found:
        on = read_switch(document.get(path))
        for other, other_bits in found:
            if document.overrides(path, other) and (on or bits == other_bits) and document.has(other):
                document.remove(other)
        if document.overrides(path, _QUANTIZATION) and document.has(_QUANTIZATION):
            _override_below(rewriter, path, bits, on)
    written = document.get(_QUANTIZATION)
    if not document.has(_QUANTIZATION) or (isinstance(written, dict) and "bits" not in written):
        return  # nothing, or details that do not say how many bits
    details = [] if isinstance(written, dict) else [(*p, old) for p in _PARENTS for old in _FOUR_BIT_KEYS]
    for path in [*(path for path, _ in found), *details]:
        if document.has(path) and document.overrides(_QUANTIZATION, path):
            document.remove(path)


def _override_below(rewriter: Rewriter, path: KeyPath, bits: int, on: bool | None) -> None:
    """Lay a switch over what a lower layer writes as model.quantization."""
    document = rewriter.document
    written = document.get(_QUANTIZATION)
    below = written.get("bits", 4) if isinstance(written, dict) else {"int8": 8, None: None}.get(written, 4)
    if on and bits == 4 and isinstance(written, dict) and "bits" not in written:
        return  # details of the 4 bits that the switch asks for
    if on and below == bits:
        rewriter.leave_out(path, "now written model.quantization; read as that")
    elif on:
        document.remove(_QUANTIZATION)
    elif on is False and below == bits:
        document.set(_QUANTIZATION, None, rewriter.place(path))


def _take_switch(rewriter: Rewriter, bits: int, parent: KeyPath) -> bool | None:
    """Turn `load_in_4bit: true` into `bits: 4`; None where it is not written."""
    document = rewriter.document
    path = (*parent, f"load_in_{bits}bit")
    if not document.has(path):
        return None
    place, value = rewriter.leave_out(path, "now written model.quantization; read as that")
    on = read_switch(value)
    written = document.get(_QUANTIZATION)
    if on is None:
        rewriter.report(path, place, f"{value!r} is not allowed; use true or false")
    elif on and (written is None or (isinstance(written, dict) and "bits" not in written)):
        document.set((*_QUANTIZATION, "bits"), bits, place)
    elif on and (not isinstance(written, dict) or written["bits"] != bits):
        rewriter.report(path, place, "contradicts model.quantization; keep one of them")
    return on


def read_switch(value: Any) -> bool | None:
    """Read true or false in any of YAML's spellings (1.1's `no` is a word in 1.2); None where it is neither."""
    word = str(value).lower()
    return True if word in _ON else False if word in _OFF else None
