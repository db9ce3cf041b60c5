"""Flags of other training scripts and keys of their files, with their equivalents here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

PAGES = ("docs/from_run_glue.md", "docs/longbench.md")
"""Pages that map such flags one by one."""

_LENGTH = ("dataset.max_length={}", "sft.max_length={}")
_ROWS = ("training.per_device_train_batch_size={}",)
_EVAL_ROWS = ("training.per_device_eval_batch_size={}",)
_MODEL = ("model.name_or_path={}",)
_NOTHING = ("",)

FLAGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("model_name_or_path", "model_name", "model", "base_model", "pretrained_model"), _MODEL),
    "model_revision": ("model.revision={}",), "torch_dtype": ("model.dtype={}",), "dtype": ("model.dtype={}",),
    "trust_remote_code": ("model.trust_remote_code=true",),
    "load_in_4bit": ("model.quantization=nf4",), "load_in_8bit": ("model.quantization=int8",),
    **dict.fromkeys(("method", "peft_method", "peft_type", "finetuning_type"), ("peft.method={}",)),
    "use_lora": ("peft.method=lora",), "use_qst": ("peft.method=qst",),
    "reduction_factor": ("peft.reduction_factor={}",),
    **dict.fromkeys(("no_lora", "full_finetune", "full_finetuning"), ("peft.method=none",)),
    **dict.fromkeys(("lora_r", "lora_rank", "rank", "r"), ("peft.lora_r={}",)),
    "lora_alpha": ("peft.lora_alpha={}",), "lora_dropout": ("peft.lora_dropout={}",),
    **dict.fromkeys(("target_modules", "lora_target", "lora_target_modules"), ("peft.target_modules=[{}]",)),
    "init_lora_weights": ("peft.init_lora_weights={}",), "use_dora": ("peft.use_dora=true",),
    "use_rslora": ("peft.use_rslora=true",),
    **dict.fromkeys(("task_name", "task", "subset", "dataset_config_name"), ("dataset.subset={}",)),
    **dict.fromkeys(("dataset_name", "dataset"), ("dataset.name={}",)),
    **dict.fromkeys(("train_file", "data_path"), ("dataset.path={}",)),
    "validation_file": ("dataset.validation_path={}",),
    "train_datasets": ("dataset.subsets=[{}]",), "text_column_name": ("dataset.text_column={}",),
    "label_column_name": ("dataset.label_column={}",), "max_train_samples": ("dataset.max_train_samples={}",),
    "max_eval_samples": ("dataset.max_eval_samples={}",),
    **dict.fromkeys(("max_seq_length", "max_length", "max_len", "cutoff_len"), _LENGTH),
    **dict.fromkeys(("seed", "random_seed"), ("seed={}",)),
    **dict.fromkeys(("num_train_epochs", "epochs", "num_epochs"), ("training.num_train_epochs={}",)),
    **dict.fromkeys(("learning_rate", "lr"), ("training.learning_rate={}",)),
    **dict.fromkeys(("per_device_train_batch_size", "batch_size", "train_batch_size"), _ROWS),
    **dict.fromkeys(("per_device_eval_batch_size", "eval_batch_size"), _EVAL_ROWS),
    **dict.fromkeys(("warmup_ratio", "warmup_steps"), ("training.warmup_steps={}",)),
    **dict.fromkeys(("lr_scheduler_type", "scheduler"), ("training.lr_scheduler_type={}",)),
    **dict.fromkeys(("evaluation_strategy", "eval_strategy"), ("training.eval_strategy={}",)),
    **{
        name: (f"training.{name}={{}}",)
        for name in (
            "max_steps", "gradient_accumulation_steps", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2",
            "adam_epsilon", "optim", "save_strategy", "save_steps", "save_total_limit", "logging_steps",
            "metric_for_best_model", "report_to", "run_name", "dataloader_num_workers", "output_dir", "deepspeed",
            "early_stopping_patience", "hub_model_id",
        )
    },
    "eval_steps": ("training.eval_steps={}", "evaluation.steps={}"),
    **{
        name: (f"training.{name}=true",)
        for name in (
            "fp16", "bf16", "tf32", "gradient_checkpointing", "push_to_hub", "load_best_model_at_end", "use_cpu",
        )
    },
    "no_cuda": ("training.use_cpu=true",),
    **dict.fromkeys(("gpus", "gpu_ids", "device_ids"), ("--gpu {}",)),
    "overwrite_output_dir": ("--overwrite",),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), _NOTHING),
    "cache_dir": ("HF_HOME={} in the environment",), "hub_token": ("HF_TOKEN in the environment",),
}  # fmt: skip
"""Equivalents by flag, with a placeholder for its value; a second one is for language models; empty: always the
case."""


PROGRAMS = {
    "LLaMA-Factory": {"finetuning_type", "cutoff_len", "template", "stage", "lora_target"},
    "axolotl": {"base_model", "sequence_len", "micro_batch_size", "adapter", "val_set_size"},
}
"""Top-level keys of other programs' files by which they are recognized."""


def explain_key(key: str) -> str | None:
    """Explain how a key of another program's file is written here, or return None if it is unknown."""
    if (forms := FLAGS.get(key)) is None:
        return None
    names = [form.partition("=")[0] for form in forms]
    return f"it is {' or '.join(names)} here" if all("." in name for name in names) else None


def explain_flags(words: Sequence[str], known: frozenset[str]) -> Iterator[str]:
    """Explain how every flag that the command does not have (`known`) is written here."""
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        name = flag.lstrip("-").replace("-", "_")
        if not flag.startswith("--") or flag in known or name not in FLAGS:
            continue
        if not equals:
            value = ",".join(_values_behind(words[index + 1 :]))
        shown = f"{flag} {value}".strip()
        ours = [form.format(value) for form in FLAGS[name]]
        if not ours[0]:
            yield f"leave out {shown}: it is always so"
        else:
            yield f"{shown} is written {ours[0]}" + "".join(f" (of a language model {each})" for each in ours[1:])


def _values_behind(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        if word.startswith("--"):
            return
        yield word
