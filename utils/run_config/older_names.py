"""Names that users of earlier frameworks write: mapped to ours, with one notice each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from utils.config.document import KeyPath
from utils.config.section import Section
from utils.config.sections.training import DROPPED
from utils.run_config.older_dataset_keys import OwnColumns
from utils.run_config.older_table import OLDER, VARIANTS, WANDB_KEYS, LeftOut, Moved
from utils.run_config.rewriter import Rewriter
from utils.tasks.task import Task, choose_task

_QUANTIZATION: KeyPath = ("model", "quantization")
_QUANTIZATION_PARENTS: tuple[KeyPath, ...] = ((), ("training",), ("model",), _QUANTIZATION)
_FOUR_BIT_KEYS = {
    "bnb_4bit_quant_type": "type",
    "bnb_4bit_use_double_quant": "double_quant",
    "bnb_4bit_compute_dtype": "compute_dtype",
}
TASK_SPELLINGS = {
    "classification": "SEQ_CLS", "sequence_classification": "SEQ_CLS", "seq_cls": "SEQ_CLS", "seq-cls": "SEQ_CLS",
    "causal_lm": "CAUSAL_LM", "causal-lm": "CAUSAL_LM", "sft": "CAUSAL_LM", "clm": "CAUSAL_LM",
}  # fmt: skip
"""Other spellings of task_type, in lower case."""
_ON, _OFF = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "none")


class OlderNames(Rewriter):
    """Rewrites a document in place and collects what it did."""

    def rewrite_sections(self) -> None:
        """Move keys that belong to another section now; before sections are chosen."""
        self._read_task_type()
        self.rewrite_best()
        for key, rule in OLDER.items():
            self._apply(tuple(key.split(".")), rule)
        self._move_length()
        self._move_quantization()
        self._read_variant()
        self._move_wandb()
        section: KeyPath = ("generation",)
        if self._task is not None and not self._task.GENERATES and self.document.has(section):
            self._leave_out(section, "a classifier writes nothing; left out")

    def rewrite_names(self, name: str, section: type[Section]) -> None:
        """Give a section's keys their names of today."""
        if name == "dataset":
            self._rewrite_dataset(section)
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

    def _apply(self, path: KeyPath, rule: Any) -> None:
        if not self.document.has(path):
            return
        if isinstance(rule, Moved) and self.document.get(path) in rule.nothing:
            self.document.remove(path)
        elif isinstance(rule, Moved):
            self._move(path, tuple(rule.to.split(".")), agreeing=True)
        elif isinstance(rule, LeftOut) and (not rule.values or self.document.get(path) in rule.values):
            self._leave_out(path, f"has no effect; {rule.why}")
        else:
            place, value = self._place(path), self.document.remove(path)
            share = f"{1 / value:.3g}" if isinstance(value, int) and value > 0 else "0.05"
            said = rule.otherwise if isinstance(rule, LeftOut) else rule.why
            self._report(path, place, said.replace("{share}", share))

    def rewrite_best(self) -> None:
        """Move the keys by which scores of generated answers once chose the best checkpoint and ended training.

        The best was always that of `combined`, and another metric could end the training; the loss could choose beside
        them. There is one metric now, the one that chose the final model; what another decided is said.
        """
        keys: dict[KeyPath, KeyPath] = {
            tuple(old.split(".")): tuple(rule.to.split("."))
            for old, rule in OLDER.items()
            if isinstance(rule, Moved) and old.startswith("evaluation.")
        }
        metric: KeyPath = ("evaluation", "early_stopping_metric")
        loads, stops = (
            self.document.get(("evaluation", key)) not in (None, False)
            for key in ("load_best_at_end", "early_stopping_patience")
        )
        if self.document.has(metric) and not stops:
            if self.document.get(metric) not in (None, "combined"):
                self._leave_out(metric, "has no effect; early_stopping_patience is not set")
            else:
                self.document.remove(metric)
        if loads or stops:
            self._choose_metric(metric, loads)
        for old, new in keys.items():
            rule = OLDER[".".join(old)]
            assert isinstance(rule, Moved)
            if self.document.has(old) and self.document.get(old) not in rule.nothing and self.document.has(new):
                self._lay_over(old, new, rule.nothing)
            self._apply(old, rule)

    def _choose_metric(self, metric: KeyPath, loads: bool) -> None:
        """Write down the one metric, where `training:` names none."""
        document = self.document
        wanted = document.get(metric) or "combined"
        by_loss = document.get(("training", "load_best_model_at_end")) is True
        own = document.get(("training", "metric_for_best_model")) or ("loss" if by_loss else None)
        kept = own or ("combined" if loads else wanted)
        place = self._place(metric if document.has(metric) else ("evaluation",))
        if wanted != kept:
            said = f"the best checkpoint and the end of training go by one metric now, {kept}, and not by {wanted} too"
            self.notices.append(f"{place}  {'.'.join(metric)}: {said}")
        if document.has(metric):
            document.remove(metric)
        if own is None:
            document.set(("training", "metric_for_best_model"), kept, place)

    def _lay_over(self, old: KeyPath, new: KeyPath, nothing: tuple[Any, ...]) -> None:
        """Let a key that asks for something count before one that asks for nothing, unless that one overrides it."""
        document = self.document
        if document.get(new) in nothing and not document.overrides(new, old):
            document.remove(new)
        elif document.get(new) not in nothing and document.get(new) != document.get(old):
            self._leave_out(old, f"{'.'.join(new)} counts, {document.get(new)}")

    def _read_task_type(self) -> None:
        """Take the task from `peft.task_type`, where other frameworks have it alone."""
        inner: KeyPath = ("peft", "task_type")
        for section in (("task",), ("task_type",)):
            if self.document.get(section) is not None:
                return
        if isinstance(value := self.document.get(inner), str):
            place = self._place(inner)
            self.document.set(("task_type",), value, place)
            self.notices.append(f"{place}  peft.task_type: read as the file's task_type")

    @property
    def _task(self) -> type[Task] | None:
        value = self.document.get(("task_type",))
        return choose_task(self.document, TASK_SPELLINGS.get(value.lower(), value) if isinstance(value, str) else value)

    def _read_variant(self) -> None:
        """Read `variant: dora` as the switch of LoRA that it is."""
        path: KeyPath = ("peft", "variant")
        if not self.document.has(path) or self.document.get(("peft", "method"), "lora") != "lora":
            return  # a field of another method's own
        place, value = self._place(path), self.document.remove(path)
        if not isinstance(value, str) or value.lower() not in VARIANTS:
            switches = "use_dora, use_rslora, use_qalora or init_lora_weights"
            self._report(path, place, f"{value!r} is not allowed; set {switches}")
        elif (switch := VARIANTS[value.lower()]) is None:
            self.notices.append(f"{place}  peft.variant: {value} is what peft.method: lora is; left out")
        elif self.document.get(("peft", switch)) in (None, True):
            self.document.set(("peft", switch), True, place)
            self.notices.append(f"{place}  peft.variant: {value} is now written peft.{switch}: true; read as that")
        else:
            self._report(path, place, f"{value} contradicts peft.{switch}; keep one of them")

    def _move_wandb(self) -> None:
        """Read a section of its own for W&B as the keys of `training:` that it means."""
        section = self.document.get(("wandb",))
        if not isinstance(section, dict):
            return
        for key in [*section]:
            path: KeyPath = ("wandb", key)
            if key == "online" and isinstance(section[key], bool):
                self._move(path, ("training", "wandb", "mode"), "online" if section[key] else "offline")
            elif key == "run_name_suffix":
                name = self.document.get(("task_name",)) or Path(self.document.source).stem
                self._move(path, ("training", "run_name"), f"{name}_{section[key]}")
            else:
                self._move(path, tuple(WANDB_KEYS.get(key, f"training.wandb.{key}").split(".")))
        self.document.remove(("wandb",))

    def _rewrite_dataset(self, section: type[Section]) -> None:
        """Take keys that agree with what a set is anyway, and the length that is `sft:`'s for a language model."""
        causal = self._task is not None and self._task.reads_answers()
        own = OwnColumns.of(section, self.document, causal)
        for path, reason in own.agreeing():
            self._leave_out(path, reason)
        for path, message in own.contradicting():
            place, _ = self._place(path), self.document.remove(path)
            self._report(path, place, message)
        if own.cut_prompt is not None:
            path = ("dataset", "prompt_template")
            place = self._place(path)
            self.document.set(path, own.cut_prompt, place)
            said = f"{{{own.answer}}} is what is trained on; the prompt is what stands before it"
            self.notices.append(f"{place}  dataset.prompt_template: {said}")
        if causal and "text_column" in section.model_fields:
            self._move(("sft", "dataset_text_field"), ("dataset", "text_column"), agreeing=True)
        elif causal and self.document.has(("sft", "dataset_text_field")):
            self._leave_out(("sft", "dataset_text_field"), "this set has its own columns; left out")
        self._move_own_length(section, causal)

    def _move_own_length(self, section: type[Section], causal: bool) -> None:
        length: KeyPath = ("dataset", "max_length")
        if causal and isinstance(self.document.get(("sft",), {}), dict):
            self._move(("sft", "max_seq_length"), ("sft", "max_length"))
        is_field = "max_length" in section.model_fields  # of rows for either task, which a resolved file always has
        if causal and not (is_field and self.document.has(self._length_home)):
            self._move(length, self._length_home, agreeing=True)

    @property
    def _length_home(self) -> KeyPath:
        """Where the task has its rows' length."""
        assert self._task is not None, "asked of a task"
        return tuple(self._task.LENGTH_KEY.split("."))

    def _move_length(self) -> None:
        """Read `max_seq_length` as the key of the task's own that bounds a row."""
        home = self._length_home if self._task is not None else ("dataset", "max_length")
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
                if self.document.overrides(path, other) and (on or bits == other_bits) and self.document.has(other):
                    self.document.remove(other)
            if self.document.overrides(path, _QUANTIZATION) and self.document.has(_QUANTIZATION):
                self._settle_below(path, bits, on)
        written = self.document.get(_QUANTIZATION)
        if not self.document.has(_QUANTIZATION) or (isinstance(written, dict) and "bits" not in written):
            return  # nothing, or details that do not say how many bits
        details = (
            [] if isinstance(written, dict) else [(*p, old) for p in _QUANTIZATION_PARENTS for old in _FOUR_BIT_KEYS]
        )
        for path in [*(path for path, _ in found), *details]:
            if self.document.has(path) and self.document.overrides(_QUANTIZATION, path):
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


def _read_switch(value: Any) -> bool | None:
    """Read true or false in any of YAML's spellings (1.1's `no` is a word in 1.2); None where it is neither."""
    word = str(value).lower()
    return True if word in _ON else False if word in _OFF else None
