"""Names that users of earlier frameworks write: mapped to ours, with one notice each."""

from __future__ import annotations

from typing import Any

from utils.config.document import Document, KeyPath, Place
from utils.config.section import Section
from utils.errors import Problem
from utils.training.section import DROPPED

_MOVES: dict[KeyPath, KeyPath] = {
    ("task",): ("task_type",),
    ("model_name_or_path",): ("model", "name_or_path"),
    ("output_dir",): ("training", "output_dir"),
    ("quantization",): ("model", "quantization"),
    ("quantization_config",): ("model", "quantization"),
    ("model", "quantization_config"): ("model", "quantization"),
    ("model", "use_auth_token"): ("model", "token"),
    ("model", "num_labels"): ("dataset", "num_labels"),
    ("training", "use_auth_token"): ("model", "token"),
}

_QUANTIZATION: KeyPath = ("model", "quantization")
_QUANTIZATION_PARENTS: tuple[KeyPath, ...] = ((), ("training",), ("model",), _QUANTIZATION)
_FOUR_BIT_KEYS = {
    "bnb_4bit_quant_type": "type",
    "bnb_4bit_use_double_quant": "double_quant",
    "bnb_4bit_compute_dtype": "compute_dtype",
}
_ON, _OFF = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "none")


class OlderNames:
    """Rewrites a document in place and collects what it did."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.notices: list[str] = []
        self.problems: list[Problem] = []

    def rewrite_sections(self) -> None:
        """Move keys that belong to another section now; before sections are chosen."""
        for old, new in _MOVES.items():
            self._move(old, new)
        self._move_length()
        self._move_quantization()

    def rewrite_names(self, name: str, section: type[Section]) -> None:
        """Give a section's keys their names of today."""
        for old, new in section.ALIASES.items():
            if old in section.model_fields or not self.document.has((name, old)):
                continue
            value = self.document.get((name, old))
            if old == "group_by_length":
                words = {True: "group_by_length", False: "random", None: value}
                self._move((name, old), (name, new), words[_read_switch(value)])
            elif old == "warmup_ratio" and isinstance(value, (int, float)) and value >= 1:
                place, _ = self._place((name, old)), self.document.remove((name, old))
                self._report((name, old), place, f"{value} is not allowed; use a share below 1, or warmup_steps")
            else:
                self._move((name, old), (name, new))
        if name == "training":
            self._drop_removed()

    def _drop_removed(self) -> None:
        for old, reason in DROPPED.items():
            if self.document.has(("training", old)):
                self._leave_out(("training", old), f"has no effect any more; {reason}")
        if self.document.get(("training", "optim")) == "adamw_hf":
            path = ("training", "optim")
            self.notices.append(f"{self.document.place_of(path)}  training.optim: adamw_hf is now called adamw_torch")
            self.document.set(path, "adamw_torch", self.document.places[path])

    def _move_length(self) -> None:
        """`max_seq_length` is the dataset's in SEQ_CLS and the trainer's in CAUSAL_LM."""
        causal = str(self.document.get(("task_type",), "")).lower().startswith("causal")
        home = ("sft", "max_length") if causal else ("dataset", "max_length")
        for name in ("max_seq_length", "max_length"):
            for parent in (("training",), ("model",), ()):
                self._move((*parent, name), home)

    def _move_quantization(self) -> None:
        """Read bitsandbytes' own spelling; its 4-bit options mean nothing while load_in_4bit is false."""
        self._drop_lower_quantization()
        switches = [self._take_switch(bits, parent) for parent in _QUANTIZATION_PARENTS for bits in (4, 8)]
        written = self.document.get(_QUANTIZATION)
        four_bits = isinstance(written, dict) and written.get("bits", 4) == 4
        wanted = four_bits and (True in switches or False not in switches)
        for parent in _QUANTIZATION_PARENTS:
            for old, new in _FOUR_BIT_KEYS.items():
                if wanted or isinstance(written, str):
                    self._move((*parent, old), (*_QUANTIZATION, new))
                elif self.document.has((*parent, old)):
                    self._leave_out((*parent, old), "has no effect without 4 bits; left out")
        if self.document.get(_QUANTIZATION) == {}:
            self.document.set(_QUANTIZATION, None, self._place(_QUANTIZATION))

    def _drop_lower_quantization(self) -> None:
        """Forget what a lower layer says of the number of bits where an upper one says otherwise, by whatever name."""
        found = [
            ((*parent, f"load_in_{bits}bit"), bits)
            for parent in _QUANTIZATION_PARENTS
            for bits in (4, 8)
            if self.document.has((*parent, f"load_in_{bits}bit"))
        ]
        for path, bits in found:
            on = _read_switch(self.document.get(path))
            for other, other_bits in found:
                if self.document.lies_over(path, other) and (on or bits == other_bits) and self.document.has(other):
                    self.document.remove(other)
            if self.document.lies_over(path, _QUANTIZATION) and self.document.has(_QUANTIZATION):
                self._settle_below(path, bits, on)
        written = self.document.get(_QUANTIZATION)
        if not self.document.has(_QUANTIZATION) or (isinstance(written, dict) and "bits" not in written):
            return  # nothing, or details that do not say how many bits
        details = (
            [] if isinstance(written, dict) else [(*p, old) for p in _QUANTIZATION_PARENTS for old in _FOUR_BIT_KEYS]
        )
        for path in [*(path for path, _ in found), *details]:
            if self.document.has(path) and self.document.lies_over(_QUANTIZATION, path):
                self.document.remove(path)

    def _settle_below(self, path: KeyPath, bits: int, on: bool | None) -> None:
        """Lay a switch over what a lower layer writes as model.quantization."""
        written = self.document.get(_QUANTIZATION)
        below = written.get("bits", 4) if isinstance(written, dict) else {"int8": 8, None: None}.get(written, 4)
        if on and bits == 4 and isinstance(written, dict) and "bits" not in written:
            return  # details of the 4 bits that the switch asks for
        if on and below == bits:
            self._leave_out(path, "now written model.quantization; read as that")
        elif on:
            self.document.remove(_QUANTIZATION)
        elif on is False and below == bits:
            self.document.set(_QUANTIZATION, None, self._place(path))

    def _take_switch(self, bits: int, parent: KeyPath) -> bool | None:
        """Turn `load_in_4bit: true` into `bits: 4`; None where it is not written."""
        path = (*parent, f"load_in_{bits}bit")
        if not self.document.has(path):
            return None
        place, value = self._leave_out(path, "now written model.quantization; read as that")
        on = _read_switch(value)
        written = self.document.get(_QUANTIZATION)
        if on is None:
            self._report(path, place, f"{value!r} is not allowed; use true or false")
        elif on and (written is None or (isinstance(written, dict) and "bits" not in written)):
            self.document.set((*_QUANTIZATION, "bits"), bits, place)
        elif on and (not isinstance(written, dict) or written["bits"] != bits):
            self._report(path, place, "contradicts model.quantization; keep one of them")
        return on

    def _leave_out(self, path: KeyPath, reason: str) -> tuple[Place, Any]:
        place, value = self._place(path), self.document.remove(path)
        self.notices.append(f"{place}  {'.'.join(path)}: {reason}")
        return place, value

    def _move(self, old: KeyPath, new: KeyPath, *value: Any) -> None:
        if not self.document.has(old):
            return
        if self.document.lies_over(old, new) and self.document.has(new):
            self.document.remove(new)
        elif self.document.lies_over(new, old):
            below = self.document.get(old)
            for key in [*below] if isinstance(below, dict) and isinstance(self.document.get(new), dict) else ():
                if not self.document.has((*new, key)):
                    self.document.move((*old, key), (*new, key))
            self.document.remove(old)
            return
        place, written = self._place(old), self.document.get(new[:-1], {})
        if self.document.has(new) or not isinstance(written, (dict, type(None))):
            self.document.remove(old)
            taken = new if self.document.has(new) else new[:-1]
            self._report(old, place, f"two names for one setting; {'.'.join(taken)} is written too: keep that one")
            return
        self.document.move(old, new)
        if value:
            self.document.set(new, value[0], place)
        self.notices.append(f"{place}  {'.'.join(old)}: now called {'.'.join(new)}; read as that")

    def _report(self, path: KeyPath, place: Place, message: str) -> None:
        self.problems.append(Problem(message, ".".join(path), str(place)))

    def _place(self, path: KeyPath) -> Place:
        return self.document.places.get(path, Place(self.document.source))


def _read_switch(value: Any) -> bool | None:
    """Read true or false in any of YAML's spellings (1.1's `no` is a word in 1.2); None where it is neither."""
    word = str(value).lower()
    return True if word in _ON else False if word in _OFF else None
