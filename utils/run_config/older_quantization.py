"""Converts bitsandbytes' own quantization keys, wherever other frameworks write them, to model.quantization."""

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
    """Convert bitsandbytes' own keys; its 4-bit options have no effect while load_in_4bit is false."""
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
                rewriter.drop((*parent, old), "has no effect without 4 bits; left out")
    if document.get(_QUANTIZATION) == {}:
        document.set(_QUANTIZATION, None, rewriter.place(_QUANTIZATION))


def _drop_lower_quantization(rewriter: Rewriter) -> None:
    """Remove a lower layer's number of bits if an upper layer contradicts it, under any name."""
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
        return  # nothing, or details without a number of bits
    details = [] if isinstance(written, dict) else [(*p, old) for p in _PARENTS for old in _FOUR_BIT_KEYS]
    for path in [*(path for path, _ in found), *details]:
        if document.has(path) and document.overrides(_QUANTIZATION, path):
            document.remove(path)


def _override_below(rewriter: Rewriter, path: KeyPath, bits: int, on: bool | None) -> None:
    """Apply a switch over a lower layer's model.quantization."""
    document = rewriter.document
    written = document.get(_QUANTIZATION)
    below = written.get("bits", 4) if isinstance(written, dict) else {"int8": 8, None: None}.get(written, 4)
    if on and bits == 4 and isinstance(written, dict) and "bits" not in written:
        return  # details of the 4 bits that the switch requests
    if on and below == bits:
        rewriter.drop(path, "now written model.quantization; read as that")
    elif on:
        document.remove(_QUANTIZATION)
    elif on is False and below == bits:
        document.set(_QUANTIZATION, None, rewriter.place(path))


def _take_switch(rewriter: Rewriter, bits: int, parent: KeyPath) -> bool | None:
    """Convert `load_in_4bit: true` to `bits: 4`, and return the switch, or None if it is not written."""
    document = rewriter.document
    path = (*parent, f"load_in_{bits}bit")
    if not document.has(path):
        return None
    place, value = rewriter.drop(path, "now written model.quantization; read as that")
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
    """Parse true or false in any spelling (YAML 1.1's `no` is a string in 1.2); None if it is neither."""
    word = str(value).lower()
    return True if word in _ON else False if word in _OFF else None
