"""Keys of earlier versions and like-minded frameworks: moved, left out or refused, each with our way to say it.

Other names within a section stand with that section (`ALIASES`); what depends on several keys, in the modules beside
this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Moved:
    """The key has another place now."""

    to: str
    """Dotted."""
    nothing: tuple[Any, ...] = ()
    """Values that ask for nothing: the key is left out, and what stands in the new place counts."""


@dataclass(frozen=True)
class LeftOut:
    """What the key asks for is so anyway."""

    why: str
    values: tuple[Any, ...] = ()
    """The values for which that is true; (): any."""
    otherwise: str = ""
    """What is said of another value."""


@dataclass(frozen=True)
class Refused:
    """The key means something that is said in another way, or not to be had."""

    why: str


_INIT_KEYS = (
    "peft.init_rows (how many rows), peft.init_batch_size, peft.eva_rho, peft.corda_method (ipm or kpm) and "
    "peft.lora_ga_direction"
)
_SPEED = "rows are tokenised in batches and cached"
_END = "the end-of-text token is always learnt"
_KEPT = "a long prompt never pushes the answer out; dataset.truncation says what is cut"

_BEST = {
    "load_best_at_end": Moved("training.load_best_model_at_end", (False, None)),
    "early_stopping_patience": Moved("training.early_stopping_patience", (None,)),
    "early_stopping_metric": Moved("training.metric_for_best_model", (None,)),
    "early_stopping_threshold": Moved("training.early_stopping_threshold", (0, None)),
}
"""Keys of the time when scores of generated answers had a best checkpoint and an early end of their own."""

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
        "the trainer is handed exactly the columns that the model reads", (True, None),
        "the trainer is handed exactly the columns that the model reads; leave it out",
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
"""By dotted key; a rule applies wherever the key is written."""


VARIANTS = {"lora": None, "vanilla": None, "dora": "use_dora", "rslora": "use_rslora", "qalora": "use_qalora"}
"""Values of peft.variant, and the switch that each is."""

WANDB_KEYS = {"name": "training.run_name", "run_name": "training.run_name"}
"""Keys of a `wandb:` section that do not go to training.wandb by their own name."""

COLUMN_KEYS = {
    "text_column": True, "text_columns": True, "prompt_field": True, "label_column": False, "target_field": False,
    "answer_column": False,
}  # fmt: skip
"""Keys that name the columns of a set which has its own: whether they mean the prompt's."""

SPLIT_KEYS = ("train_split", "eval_split", "validation_split", "test_split")
"""Keys that name the splits of a set which has its own."""


def name_today(key: str) -> str:
    """Give the name of today of a dotted key that was moved; any other key as it is."""
    rule = OLDER.get(key)
    return rule.to if isinstance(rule, Moved) else key
