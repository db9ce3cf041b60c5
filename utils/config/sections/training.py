"""The `training:` section: the fields of the installed TrainingArguments, and a few of our own.

Each field of TrainingArguments is either passed through by its own name, owned by another key (rejected with a hint),
or renamed or removed upstream (mapped with one notice). The fields are read from the installed source, so they match
whatever version is installed, and no ML library is imported.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model, field_validator

from utils.config.installed import read_fields
from utils.config.section import GENERATED, Section, list_choices
from utils.core import registry

OURS = {
    "seed": "set seed at the top of the file",
    "remove_unused_columns": "the trainer gets exactly the columns that the model reads",
    "length_column_name": "lengths come from the prepared data",
    "label_names": "labels come from dataset.label_column",
    "local_rank": "the launcher sets it",
    "resume_from_checkpoint": "use train.py --resume",
    "include_num_input_tokens_seen": "real tokens are always counted",
    "include_for_metrics": "metrics come from the dataset",
    "batch_eval_metrics": "evaluation keeps predictions only, so its memory does not grow",
    "eval_do_concat_batches": "evaluation keeps predictions only, so its memory does not grow",
    "prediction_loss_only": "set training.eval_strategy: 'no' to evaluate less",
    "hub_token": "the secret is never written in a file; set HF_TOKEN or run `hf auth login`",
    "enable_jit_checkpoint": "SIGTERM, SIGUSR1 and SIGHUP always save a checkpoint before the run ends",
    "parallelism_config": "it takes an object, which a file cannot hold; shard a run by FSDP or DeepSpeed",
    "output_dir": "",
}
"""Fields of TrainingArguments that are set elsewhere. An empty hint: a field of this section by the same name."""

RENAMED = {
    "evaluation_strategy": "eval_strategy", "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size", "push_to_hub_token": "hub_token",
    "push_to_hub_model_id": "hub_model_id", "torchdynamo": "torch_compile_backend", "num_epochs": "num_train_epochs",
    "epochs": "num_train_epochs", "lr": "learning_rate", "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size", "warmup_ratio": "warmup_steps",
    "group_by_length": "train_sampling_strategy", "batch_size": "per_device_train_batch_size",
}  # fmt: skip
"""Older names of fields, mapped to their current names."""

DROPPED = {
    "overwrite_output_dir": "an existing run is never mixed with another; train.py --overwrite starts over",
    "save_safetensors": "weights are always safetensors",
    "include_tokens_per_second": "tokens per second are always measured",
    "use_mps_device": "the device is chosen automatically",
    "jit_mode_eval": "it was removed from transformers", "tpu_num_cores": "it was removed from transformers",
    "past_index": "it was removed from transformers", "ray_scope": "it was removed from transformers",
    "mp_parameters": "it was removed from transformers", "fp16_backend": "it was removed from transformers",
    "half_precision_backend": "it was removed from transformers", "fsdp_min_num_params": "use fsdp_config",
    "use_legacy_prediction_loop": "it was removed from transformers", "dispatch_batches": "use accelerator_config",
    "use_ipex": "it was removed from transformers", "no_inference": "it was removed from transformers",
}  # fmt: skip
"""Fields that the libraries removed without a successor: accepted with one notice, without effect."""

DEFAULT_ROWS = 8
"""transformers' default for per_device_train_batch_size."""

PLUGIN_KEYS = {"optim": "optimizers", "lr_scheduler_type": "schedules"}
"""Fields whose value may name a plug-in, with the plug-ins' package; the plug-in's settings become fields as well."""

_BOUNDS = {
    "learning_rate": Field(gt=0), "num_train_epochs": Field(gt=0), "per_device_train_batch_size": Field(ge=1),
    "per_device_eval_batch_size": Field(ge=1), "gradient_accumulation_steps": Field(ge=1), "warmup_steps": Field(ge=0),
    "weight_decay": Field(ge=0), "max_grad_norm": Field(ge=0), "label_smoothing_factor": Field(ge=0, lt=1),
    "adam_beta1": Field(ge=0, lt=1), "adam_beta2": Field(ge=0, lt=1), "adam_epsilon": Field(gt=0),
    "dataloader_num_workers": Field(ge=0), "eval_delay": Field(ge=0), "logging_steps": Field(gt=0),
    "save_steps": Field(gt=0), "eval_steps": Field(gt=0), "torch_empty_cache_steps": Field(ge=1),
    "neftune_noise_alpha": Field(ge=0),
}  # fmt: skip

_LogLevel = Literal["detail", "debug", "info", "warning", "error", "critical", "passive"]
_CHOICES = {
    "train_sampling_strategy": Literal["random", "sequential", "group_by_length"],
    "log_level": _LogLevel,
    "log_level_replica": _LogLevel,
    "learning_rate": float | None,  # null: the method's own default, whatever an extended file says
    "bf16": bool | Literal["auto"],
    "gradient_accumulation_steps": int | None,  # null: determined by global_batch_size, whatever an extended file says
}
"""Types of fields that transformers validates only when the Trainer is built, or that are read differently here."""


_HELP = {
    "disable_tqdm": (
        "Show no progress bars, neither ours (training, evaluation, encoding) nor the libraries'; null: shown on a "
        "terminal, unless TQDM_DISABLE is set."
    ),
    "bf16": (
        "Multiply in bfloat16 (mixed precision: trained weights, their gradients and sums stay float32). auto: where "
        "the GPU, or a CPU's AVX512-BF16 or AMX, does it; what was chosen is written to run.yaml."
    ),
    "metric_for_best_model": (
        "The result that chooses the best checkpoint and ends training early: of evaluations by eval_strategy a metric "
        "of the set, or loss, perplexity, token_accuracy; of a language model's by evaluation.steps combined, or "
        "`<label>_<metric>` such as gsm8k_em_strict. null: SEQ_CLS: the set's first metric; CAUSAL_LM: loss, or "
        "combined where the loss is not evaluated."
    ),
}
"""Descriptions that replace the library's."""


def explain_pattern(pattern: str) -> str | None:
    """Explain why a string is no pattern of files within a folder, or return None if it is one."""
    path = PurePath(pattern)
    odd = [each for each in path.parts if each == ".." or ("**" in each and each != "**")]
    if path.parts and not path.is_absolute() and not odd:
        return None
    return f"{pattern!r} is not a pattern of files in the run's folder, such as 'eval_*/predictions.jsonl'"


class WandbSection(Section):
    """W&B reporting; environment variables that are already set (WANDB_PROJECT ...) take precedence."""

    project: str | None = None
    """The project; null: WANDB_PROJECT, or huggingface."""
    entity: str | None = None
    """The user or team."""
    group: str | None = None
    """Group under which runs are shown together."""
    tags: list[str] = []
    """Tags of the run; []: its task, method, dataset and seed."""
    notes: str | None = None
    """Notes on the run."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """offline: log to local files, to be uploaded later by `wandb sync`; null: online."""

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables through which wandb reads these settings."""
        values = {**self.model_dump(exclude_none=True), "tags": ",".join(self.tags)}
        names = {"group": "WANDB_RUN_GROUP"}
        return {names.get(key, f"WANDB_{key.upper()}"): value for key, value in values.items() if value}


class OwnTrainingSection(Section):
    """Our own fields of `training:`; the installed library's fields are added to them."""

    ALIASES: ClassVar[dict[str, str]] = RENAMED
    PLUGIN_FIELDS: ClassVar[frozenset[str]] = frozenset()
    """Fields added by the chosen optimizer and schedule."""

    output_dir: str = Field(min_length=1)
    """Folder of the run; null: ./outputs/<configuration file's name>."""
    logging_dir: str | None = None
    """Folder of TensorBoard's files; null: <output_dir>/logs."""
    wandb: WandbSection | None = None
    """W&B settings of a run with report_to: wandb; run_name names the run."""
    callbacks: list[str] = []
    """Your own callbacks, `module:Class` each: subclasses of transformers.TrainerCallback, created without arguments,
    from an installed package, a folder of `extensions` or the working directory. Their code is run."""
    early_stopping_patience: int | None = Field(None, ge=1)
    """Stop after this many evaluations without an improvement of the best metric; null: never."""
    early_stopping_threshold: float = Field(0.0, ge=0)
    """Smallest change that counts as an improvement."""
    class_weights: list[float] | Literal["balanced"] | None = None
    """Weight of each class in the loss, or `balanced`: inversely proportional to its share of the training rows."""
    head_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the task head alone; null: learning_rate."""
    global_batch_size: int | None = Field(None, ge=1)
    """Rows per optimizer step over all processes: gradient_accumulation_steps is derived from it and the number of
    processes, and per_device_train_batch_size is the most that a process takes at once; null: as
    gradient_accumulation_steps says."""
    hub_files: list[str] = []
    """With push_to_hub: files to push in addition to final_model, as patterns within the run's folder. The repository
    is private unless hub_private_repo is false, and named by hub_model_id, else after the folder."""
    on_full_disk: Literal["continue", "stop"] = "continue"
    """When a checkpoint does not fit on the disk: continue without it and warn, or stop. Earlier checkpoints are
    kept."""
    on_divergence: Literal["warn", "stop"] = "warn"
    """What to do if the loss stays above three times its median and above its first value for five logged steps."""
    try_longest_batch: bool | Literal["auto"] = "auto"
    """Run the longest batch before the first step, so that running out of memory shows at once; auto: on GPUs."""

    @field_validator("callbacks")
    @classmethod
    def _check_callbacks(cls, value: list[str]) -> list[str]:
        for name in value:
            if not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
                raise ValueError(f"{name!r} is not module:Class, such as my_callbacks:Recorder")
        return value

    @field_validator("hub_files")
    @classmethod
    def _check_patterns(cls, value: list[str]) -> list[str]:
        if wrong := next(filter(None, map(explain_pattern, value)), None):
            raise ValueError(wrong)
        return value

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields of TrainingArguments that the file sets."""
        own = {*OwnTrainingSection.model_fields, *self.PLUGIN_FIELDS}
        return {name: value for name, value in self.model_dump(exclude_unset=True).items() if name not in own}

    def dump(self) -> dict[str, Any]:
        """Return our own fields and those of the chosen plug-ins."""
        return self.model_dump(include={*OwnTrainingSection.model_fields, *self.PLUGIN_FIELDS})

    def find_plugin(self, key: str) -> tuple[Any, Section] | None:
        """Return the plug-in that a key names, with its settings.

        Args:
            key: One of PLUGIN_KEYS.

        Returns:
            The plug-in's module and Config, or None if the value is one of transformers' own.
        """
        name, package = str(getattr(self, key, None)), PLUGIN_KEYS[key]
        if not registry.has(package, name):
            return None
        plugin = registry.load(package, name)
        return plugin, plugin.Config(**{field: getattr(self, field) for field in plugin.Config.model_fields})


def training_section(**chosen: Any) -> type[OwnTrainingSection]:
    """Build the section's class from the installed TrainingArguments and the plug-ins that the file chooses.

    Args:
        **chosen: The file's values of PLUGIN_KEYS; values that name no plug-in add no fields.
    """
    named = [(package, str(chosen.get(key))) for key, package in PLUGIN_KEYS.items()]
    plugins = tuple((package, registry.normalize(name)) for package, name in named if registry.has(package, name))
    return _build_section(plugins, tuple(registry.names(package) for package in PLUGIN_KEYS.values()))


@cache
def _build_section(
    plugins: tuple[tuple[str, str], ...], known: tuple[tuple[str, ...], ...]
) -> type[OwnTrainingSection]:
    offered = dict(zip(PLUGIN_KEYS, known, strict=True))
    fields: dict[str, Any] = {}
    for name, field in read_fields("transformers.training_args", "TrainingArguments").items():
        if name not in OURS and name not in RENAMED:  # older libraries declare fields under older names
            annotation = _CHOICES.get(name, field.annotation)
            if name in offered:
                names = (*list_choices(annotation), *offered[name])
                annotation = Literal[names]
            bound = _BOUNDS.get(name)
            fields[name] = (
                Annotated[annotation, bound] if bound else annotation,
                Field(default=None, description=_HELP.get(name, field.help) or None),
            )
    configs = tuple(registry.load(package, name).Config for package, name in plugins)
    create: Any = create_model  # the bases are known only at run time
    built: Any = create("TrainingSection", __base__=(OwnTrainingSection, *configs), __cls_kwargs__=GENERATED, **fields)
    built.PLUGIN_FIELDS = frozenset(field for config in configs for field in config.model_fields)
    section: type[OwnTrainingSection] = built
    return section
