"""Maps names from earlier versions and other frameworks to the current ones, with one notice each."""

from __future__ import annotations

from pathlib import Path

from utils.config.document import KeyPath
from utils.config.section import Section
from utils.config.sections.training import DROPPED
from utils.run_config.older_best import rewrite_best
from utils.run_config.older_dataset_keys import OwnColumns
from utils.run_config.older_quantization import read_switch, rewrite_quantization
from utils.run_config.older_table import OLDER, VARIANTS, WANDB_KEYS
from utils.run_config.rewriter import Rewriter
from utils.tasks.task import Task, choose_task

TASK_SPELLINGS = {
    "classification": "SEQ_CLS", "sequence_classification": "SEQ_CLS", "seq_cls": "SEQ_CLS", "seq-cls": "SEQ_CLS",
    "causal_lm": "CAUSAL_LM", "causal-lm": "CAUSAL_LM", "sft": "CAUSAL_LM", "clm": "CAUSAL_LM",
}  # fmt: skip
"""Alternative spellings of task_type, in lower case."""
_RULES = [(tuple(key.split(".")), rule) for key, rule in OLDER.items()]


class OlderNames(Rewriter):
    """Rewrites a document in place and collects notices and problems."""

    def rewrite_sections(self) -> None:
        """Move keys that now belong to another section, before sections are chosen."""
        self._read_task_type()
        rewrite_best(self)
        for path, rule in _RULES:
            self.apply(path, rule)
        self._move_length()
        rewrite_quantization(self)
        self._read_variant()
        self._move_wandb()
        section: KeyPath = ("generation",)
        if self._task is not None and not self._task.GENERATES and self.document.has(section):
            self.drop(section, "a classifier generates nothing; left out")

    def rewrite_names(self, name: str, section: type[Section]) -> None:
        """Rename a section's older keys."""
        if name == "dataset":
            self._rewrite_dataset(section)
        for old, new in section.ALIASES.items():
            if not self.document.has((name, old)) or old in section.model_fields:
                continue
            value = self.document.get((name, old))
            if old == "group_by_length":
                words = {True: "group_by_length", False: "random", None: value}
                self.move((name, old), (name, new), words[read_switch(value)])
            elif old == "warmup_ratio" and isinstance(value, (int, float)) and value >= 1:
                self.refuse((name, old), f"{value} is not allowed; use a share below 1, or warmup_steps")
            else:
                self.move((name, old), (name, new))
        if name == "training":
            self._drop_removed()

    def _drop_removed(self) -> None:
        for old, reason in DROPPED.items():
            if self.document.has(("training", old)):
                self.drop(("training", old), f"has no effect any more; {reason}")
        optimizer: KeyPath = ("training", "optim")
        if self.document.get(optimizer) == "adamw_hf":
            self.notice(optimizer, self.place(optimizer), "adamw_hf is now called adamw_torch")
            self.document.set(optimizer, "adamw_torch", self.place(optimizer))

    def _read_task_type(self) -> None:
        """Take the task from `peft.task_type`, the only place in other frameworks."""
        inner: KeyPath = ("peft", "task_type")
        is_written = any(self.document.get((key,)) is not None for key in ("task", "task_type"))
        if not is_written and isinstance(value := self.document.get(inner), str):
            self.document.set(("task_type",), value, self.place(inner))
            self.notice(inner, self.place(inner), "read as the file's task_type")

    @property
    def _task(self) -> type[Task] | None:
        value = self.document.get(("task_type",))
        return choose_task(self.document, TASK_SPELLINGS.get(value.lower(), value) if isinstance(value, str) else value)

    def _read_variant(self) -> None:
        """Convert `variant: dora` to the corresponding switch of LoRA."""
        path: KeyPath = ("peft", "variant")
        if not self.document.has(path) or self.document.get(("peft", "method"), "lora") != "lora":
            return  # another method's own field
        place, value = self.place(path), self.document.remove(path)
        if not isinstance(value, str) or value.lower() not in VARIANTS:
            switches = "use_dora, use_rslora, use_qalora or init_lora_weights"
            self.report(path, place, f"{value!r} is not allowed; set {switches}")
        elif (switch := VARIANTS[value.lower()]) is None:
            self.notice(path, place, f"{value} is what peft.method: lora is; left out")
        elif self.document.get(("peft", switch)) in (None, True):
            self.document.set(("peft", switch), True, place)
            self.notice(path, place, f"{value} is now written peft.{switch}: true; read as that")
        else:
            self.report(path, place, f"{value} contradicts peft.{switch}; keep one of them")

    def _move_wandb(self) -> None:
        """Move a `wandb:` section to the corresponding keys of `training:`."""
        section = self.document.get(("wandb",))
        if not isinstance(section, dict):
            return
        for key in [*section]:
            path: KeyPath = ("wandb", key)
            if key == "online" and isinstance(section[key], bool):
                self.move(path, ("training", "wandb", "mode"), "online" if section[key] else "offline")
            elif key == "run_name_suffix":
                name = self.document.get(("task_name",)) or Path(self.document.source).stem
                self.move(path, ("training", "run_name"), f"{name}_{section[key]}")
            else:
                self.move(path, tuple(WANDB_KEYS.get(key, f"training.wandb.{key}").split(".")))
        self.document.remove(("wandb",))

    def _rewrite_dataset(self, section: type[Section]) -> None:
        """Drop keys that match the dataset anyway, and move a language model's length to `sft:`."""
        causal = self._task is not None and self._task.reads_answers()
        own = OwnColumns.of(section, self.document, causal)
        for path, reason in own.agreeing():
            self.drop(path, reason)
        for path, message in own.conflicting():
            self.refuse(path, message)
        if own.cut_prompt is not None:
            path = ("dataset", "prompt_template")
            self.document.set(path, own.cut_prompt, self.place(path))
            said = f"{{{own.answer}}} is what is trained on; the prompt is what stands before it"
            self.notice(path, self.place(path), said)
        if causal and "text_column" in section.model_fields:
            self.move(("sft", "dataset_text_field"), ("dataset", "text_column"), agreeing=True)
        elif causal and self.document.has(("sft", "dataset_text_field")):
            self.drop(("sft", "dataset_text_field"), "this set has its own columns; left out")
        self._move_own_length(section, causal)

    def _move_own_length(self, section: type[Section], causal: bool) -> None:
        length: KeyPath = ("dataset", "max_length")
        if causal and isinstance(self.document.get(("sft",), {}), dict):
            self.move(("sft", "max_seq_length"), ("sft", "max_length"))
        is_field = "max_length" in section.model_fields  # a field for either task, which a resolved file always has
        if causal and not (is_field and self.document.has(self._length_home)):
            self.move(length, self._length_home, agreeing=True)

    @property
    def _length_home(self) -> KeyPath:
        """Path of the task's row length."""
        assert self._task is not None, "asked of a task"
        return tuple(self._task.LENGTH_KEY.split("."))

    def _move_length(self) -> None:
        """Move `max_seq_length` to the task's own key for the row length."""
        home = self._length_home if self._task is not None else ("dataset", "max_length")
        for name in ("max_seq_length", "max_length"):
            for parent in (("training",), ("model",), ()):
                self.move((*parent, name), home)
