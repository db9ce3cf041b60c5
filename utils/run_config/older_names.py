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
    ("model", "use_auth_token"): ("model", "token"),
    ("model", "num_labels"): ("dataset", "num_labels"),
    ("model", "max_length"): ("dataset", "max_length"),
    ("training", "use_auth_token"): ("model", "token"),
    ("training", "max_length"): ("dataset", "max_length"),
    ("training", "bnb_4bit_compute_dtype"): ("model", "quantization", "compute_dtype"),
}

_QUANTIZATION = {
    "bnb_4bit_quant_type": "type",
    "bnb_4bit_use_double_quant": "double_quant",
    "bnb_4bit_compute_dtype": "compute_dtype",
}


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
        for parent in (("model",), ("model", "quantization")):
            self._move_quantization(parent)

    def rewrite_names(self, name: str, section: type[Section]) -> None:
        """Give a section's keys their names of today."""
        for old, new in section.ALIASES.items():
            if old in section.model_fields or not self.document.has((name, old)):
                continue
            value = self.document.get((name, old))
            if old == "group_by_length":
                self._move((name, old), (name, new), "group_by_length" if value else "random")
            else:
                self._move((name, old), (name, new))
        if name == "training":
            self._drop_removed()

    def _drop_removed(self) -> None:
        for old, reason in DROPPED.items():
            if self.document.has(("training", old)):
                place = self.document.place_of(("training", old))
                self.document.remove(("training", old))
                self.notices.append(f"{place}  training.{old}: has no effect any more; {reason}")
        if self.document.get(("training", "optim")) == "adamw_hf":
            path = ("training", "optim")
            self.notices.append(f"{self.document.place_of(path)}  training.optim: adamw_hf is now called adamw_torch")
            self.document.set(path, "adamw_torch", self.document.places[path])

    def _move_length(self) -> None:
        """`max_seq_length` is the dataset's in SEQ_CLS and the trainer's in CAUSAL_LM."""
        causal = str(self.document.get(("task_type",), "")).lower().startswith("causal")
        home = ("sft", "max_length") if causal else ("dataset", "max_length")
        for old in (("training", "max_seq_length"), ("model", "max_seq_length"), ("max_seq_length",)):
            self._move(old, home)

    def _move_quantization(self, parent: KeyPath) -> None:
        target = ("model", "quantization")
        for bits, old in ((4, "load_in_4bit"), (8, "load_in_8bit")):
            path = (*parent, old)
            if not self.document.has(path):
                continue
            place, on = self._place(path), self.document.remove(path)
            self.notices.append(f"{place}  {'.'.join(path)}: now written model.quantization; read as that")
            if on in (True, "true", "yes", 1):
                if not isinstance(self.document.get(target), dict):
                    self.document.set(target, {}, place)
                self.document.set((*target, "bits"), bits, place)
        for old, new in _QUANTIZATION.items():
            self._move((*parent, old), (*target, new))
        if self.document.get(target) == {}:
            self.document.set(target, None, self._place(target))

    def _move(self, old: KeyPath, new: KeyPath, *value: Any) -> None:
        if not self.document.has(old):
            return
        place, found = self._place(old), self.document.remove(old)
        if self.document.has(new):
            message = f"two names for one setting; {'.'.join(new)} is written too: keep that one"
            self.problems.append(Problem(message, ".".join(old), str(place)))
            return
        self.document.set(new, value[0] if value else found, place)
        self.notices.append(f"{place}  {'.'.join(old)}: now called {'.'.join(new)}; read as that")

    def _place(self, path: KeyPath) -> Place:
        return self.document.places.get(path, Place(self.document.source))
