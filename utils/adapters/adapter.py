"""The interface of a method, the context it is attached in, and the quantized bases it supports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, cast

from utils.config.sections.peft import AdapterSection, Limits
from utils.core import registry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LoadBase: TypeAlias = "Callable[[str | None], PreTrainedModel]"
"""Loads the base model, from the given folder if it is not None."""

_WRAPPED = ("gptq", "awq", "aqlm", "eetq", "hqq", "torchao")
"""Formats whose layers peft wraps by type; the layers of other formats look like linear layers."""
_ADAPTS = {**dict.fromkeys(("lora", "vera", "oft", "boft", "miss"), _WRAPPED), "adalora": ("gptq",)}
_WRAP_NOTHING = ("qst", "prefix_tuning", "prompt_tuning", "p_tuning", "adaption_prompt", "trainable_tokens")
"""Methods that do not touch the quantized layers."""
_WITHOUT_DORA = ("gptq", "awq", "aqlm", "eetq")


@dataclass(frozen=True)
class AttachContext:
    """Information about the run that a method may need when it is attached."""

    task_type: str
    """The task type as peft spells it."""
    has_new_head: bool
    """Whether the base got a new, untrained head (a classifier); False for a language model."""
    seed: int
    """Seed of the adapter's initialization."""
    num_training_steps: int = 0
    """Optimizer steps of the whole run; 0 if nothing will be trained."""
    num_epochs: float = 0.0
    """Number of passes over the training rows; 0 if nothing will be trained."""
    num_rows: int = 0
    """Number of distinct rows that the model sees in training and its evaluations."""
    num_tokens: int = 0
    """Number of tokens in these rows."""
    device: str = "cpu"
    """Device of the training; the model itself may still be on the CPU."""
    training_batches: Callable[[int, int], list[dict[str, Any]]] | None = None
    """Draws training rows with the seed, for data-dependent initializations: takes the number of rows (capped at all
    rows) and the batch size. Each batch is a dict of tensors for which the model's forward returns a loss. None: no
    rows."""
    added_token_ids: tuple[int, ...] = ()
    """Ids of tokens added to the vocabulary, whose embeddings have to be trained and saved."""
    mixed_precision: bool = False
    """Whether training runs under autocast; trained weights then stay float32, so that small updates are not lost."""
    new_modules: tuple[str, ...] = ()
    """Modules whose weights the checkpoint lacked, such as the pooler of a BERT that was only a language model."""
    base_commit: str | None = None
    """Resolved commit of a hub model, recorded with the adapter."""


class AdapterPlugin(Protocol):
    """The functions of a method's module; `config` is an instance of its own Config."""

    Config: type[AdapterSection]

    def attach(self, model: PreTrainedModel, config: Any, context: AttachContext) -> PreTrainedModel:
        """Make the model trainable with this method, and return it or a wrapper of it.

        Raises:
            ConfigError: The section asks for something that the model or the run lacks, such as a layer, a new head, or
                training of new tokens' embeddings.
            ModelError: The model has no modules that the method can adapt, or an architecture it does not support.
        """

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Save the trained weights to a folder that the Hugging Face libraries can read."""

    def load(self, folder: Path, load_base: LoadBase) -> PreTrainedModel:
        """Load what `save` wrote onto its base."""


def load_adapter(method: str) -> AdapterPlugin:
    """Load a method's plug-in.

    Raises:
        KeyError: There is no such method.
    """
    return cast("AdapterPlugin", registry.load("adapters", method))


def explain_unservable(section: AdapterSection) -> str | None:
    """Explain why a server such as vLLM cannot load the saved adapter, or return None if it can."""
    reason = section.LIMITS.merge or section.LIMITS.serving or section.find_unservable()
    return f"a server cannot load what {section.method} saves: {reason}" if reason else None


def keep_float32(model: PreTrainedModel, context: AttachContext) -> None:
    """Keep trained parameters in float32 under autocast; otherwise their dtype must match the base's."""
    if not context.mixed_precision:
        return
    for module in model.modules():
        own = [each for each in module.parameters(recurse=False) if each.is_floating_point()]
        trains = any(each.requires_grad for each in own)
        is_norm = all(each.dim() < 2 for each in own)  # on CPUs a norm's weight and bias must have the same dtype
        for parameter in own:
            if parameter.requires_grad or (trains and is_norm):
                parameter.data = parameter.data.float()


def head_modules(model: PreTrainedModel, new_modules: Iterable[str] = ()) -> list[str]:
    """Return the modules outside the pretrained body of a plain model, that is the new task head.

    They include DistilBERT's `pre_classifier`, DeBERTa's `pooler` and ModernBERT's `head`, which have no pretrained
    weights: an adapter that froze them would classify with random numbers. Modules of the body that the checkpoint
    lacked (`new_modules`, as in AttachContext) are included for the same reason.
    """
    body = model.base_model_prefix
    head = [name for name, child in model.named_children() if name != body and any(True for _ in child.parameters())]
    return [*head, *(name for name in new_modules if name.split(".")[0] not in head)]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Switch a model to evaluation mode, without dropout, for the duration of the context."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class WholeModelSection(AdapterSection):
    """The `peft:` section of methods that train the model's own weights and save the whole model."""

    LIMITS: ClassVar[Limits] = Limits(
        merge="there is no adapter to merge: final_model/ is the whole model already",
        adapter_path="there is no adapter: name the whole model in model.name_or_path",
    )

    def find_unused(self) -> dict[str, str]:
        """Report `init_seed` as unused: there is no adapter, and a new head uses the run's seed."""
        reason = "there is no adapter; a new head is initialized with the run's seed"
        return {} if self.init_seed is None else {"init_seed": reason}


def save_whole(model: PreTrainedModel, folder: Path) -> None:
    """Save a plain model as config.json and safetensors, for methods without an adapter."""
    model.save_pretrained(folder)


def load_whole(folder: Path, load_base: LoadBase) -> PreTrainedModel:
    """Load the whole model from its folder, without the base."""
    return load_base(str(folder))


def format_problem(section: AdapterSection, stored: str | None, name: str) -> str | None:
    """Explain why a method cannot train on a checkpoint stored as `gptq`, `nf4`, None ..., or return None if it can.

    The answer follows from what the installed peft can wrap. `name` is the checkpoint as the user named it.
    """
    if getattr(section, "use_qalora", False) and stored != "gptq":
        kind = f"is stored as {stored}" if stored else "is not quantized"
        return f"QA-LoRA is for bases in GPTQ, and {name} {kind}; set peft.use_qalora: false, or name such a base"
    if stored is None:
        return None
    method = registry.normalize(section.method)
    unquantized = "name the unquantized checkpoint"
    if reason := section.LIMITS.quantization:
        reason = reason.replace("drop model.quantization", unquantized)
        return f"{section.method} not on {name}, which is stored as {stored}; {reason}"
    if stored not in _WRAPPED or method in _WRAP_NOTHING:
        return None
    if stored not in _ADAPTS.get(method, ()):
        return (
            f"{section.method} not on {name}, which is stored as {stored}: peft cannot wrap its layers for "
            f"this method; use lora, or {unquantized} with model.quantization: nf4"
        )
    if getattr(section, "use_dora", False) and stored in _WITHOUT_DORA:
        return f"DoRA not on {name}, which is stored as {stored}; set peft.use_dora: false, or {unquantized}"
    return None
