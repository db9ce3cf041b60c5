"""Keys of earlier versions and similar frameworks: moved, dropped or rejected, each with our equivalent.

Alternative names within a section are in that section's `ALIASES`; rules that depend on several keys are in the modules
next to this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Moved:
    """The key has moved."""

    to: str
    """New dotted key."""
    nothing: tuple[Any, ...] = ()
    """Values that request nothing: the key is dropped, and the new key's value counts."""


@dataclass(frozen=True)
class LeftOut:
    """The key requests what is always the case."""

    why: str
    values: tuple[Any, ...] = ()
    """Values for which that is true; (): all."""
    otherwise: str = ""
    """Message for other values."""


@dataclass(frozen=True)
class Refused:
    """The key has to be expressed differently, or is not supported."""

    why: str


_INIT_KEYS = (
    "peft.init_rows (how many rows), peft.init_batch_size, peft.eva_rho, peft.corda_method (ipm or kpm) and "
    "peft.lora_ga_direction"
)
_SPEED = "rows are tokenised in batches and cached"
_END = "the end-of-text token is always learned"
_KEPT = "a long prompt never pushes the answer out; dataset.truncation says what is cut"

_BEST = {
    "load_best_at_end": Moved("training.load_best_model_at_end", (False, None)),
    "early_stopping_patience": Moved("training.early_stopping_patience", (None,)),
    "early_stopping_metric": Moved("training.metric_for_best_model", (None,)),
    "early_stopping_threshold": Moved("training.early_stopping_threshold", (0, None)),
}
"""Keys from when scores of generated answers had a separate best checkpoint and early stopping."""

OLDER: dict[str, Moved | LeftOut | Refused] = {
    "task": Moved("task_type"),
    "model_name_or_path": Moved("model.name_or_path"),
    "output_dir": Moved("training.output_dir"),
    "quantization": Moved("model.quantization"),
    "quantization_config": Moved("model.quantization"),
    "model.quantization_config": Moved("model.quantization"),
    "model.use_auth_token": Moved("model.token"),
    "model.num_labels": Moved("dataset.num_labels"),
    "training.use_auth_token": Moved("model.token"),
    "training.seed": Moved("seed"),
    "training.remove_unused_columns": LeftOut(
        "the trainer gets exactly the columns that the model reads", (True, None),
        "the trainer gets exactly the columns that the model reads; leave it out",
    ),
    "training.preprocessing_num_workers": LeftOut(_SPEED),
    "training.total_eval_times": Refused(
        "set training.eval_strategy: steps and training.eval_steps: {share}, a share of the run"
    ),
    "dataset.preprocessing_num_workers": LeftOut(_SPEED),
    "dataset.append_eos_token": LeftOut(_END, (True, None), f"{_END}; leave it out"),
    "dataset.add_bos_token": LeftOut("the tokenizer's own rule decides, and train.py --preview shows what it does"),
    "dataset.truncate_prompt_only": LeftOut(_KEPT, (True, None), f"{_KEPT}; leave it out"),
    "dataset.truncate_from_end": Refused(
        "of a long prompt the middle is cut, so that its start and its end stay (dataset.truncation: keep_answer); "
        "leave it out"
    ),
    "dataset.strip_prompt": Refused("the prompt is what dataset.prompt_template writes; leave it out"),
    **{f"evaluation.{old}": rule for old, rule in _BEST.items()},
    "generation.output_dir": LeftOut("what a model writes is in eval_<set>/ of training.output_dir"),
    "peft.lora_init_kwargs": Refused(f"write what is in it as {_INIT_KEYS}"),
    "loraga": Refused(f"set peft.init_lora_weights: lora_ga, and what is in it as {_INIT_KEYS}"),
    "trainer": Refused(
        "the trainer follows from task_type, and there is no choice of another yet; take the section out (what it does "
        "to lora_alpha is peft.use_rslora or peft.lora_alpha)"
    ),
}  # fmt: skip
"""Rules by dotted key; a rule applies wherever the key is written."""


VARIANTS = {"lora": None, "vanilla": None, "dora": "use_dora", "rslora": "use_rslora", "qalora": "use_qalora"}
"""Values of peft.variant, with the corresponding switch."""

WANDB_KEYS = {"name": "training.run_name", "run_name": "training.run_name"}
"""Keys of a `wandb:` section that move elsewhere than to training.wandb under their own name."""

COLUMN_KEYS = {
    "text_column": True, "text_columns": True, "prompt_field": True, "label_column": False, "target_field": False,
    "answer_column": False,
}  # fmt: skip
"""Keys for columns of a dataset that defines its own; whether they are the prompt's."""

SPLIT_KEYS = ("train_split", "eval_split", "validation_split", "test_split")
"""Keys for splits of a dataset that defines its own."""


def current_name(key: str) -> str:
    """Return the current name of a dotted key that was moved; other keys are returned unchanged."""
    rule = OLDER.get(key)
    return rule.to if isinstance(rule, Moved) else key
