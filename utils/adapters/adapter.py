"""What every method offers, what it is told when it is attached, and which bases in few bits it can adapt."""

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
"""Loads the base model; from another folder when one is given."""

_WRAPPED = ("gptq", "awq", "aqlm", "eetq", "hqq", "torchao")
"""Formats whose layers are peft's to wrap one by one; others keep layers that look like linear ones."""
_ADAPTS = {**dict.fromkeys(("lora", "vera", "oft", "boft", "miss"), _WRAPPED), "adalora": ("gptq",)}
_WRAP_NOTHING = ("qst", "prefix_tuning", "prompt_tuning", "p_tuning", "adaption_prompt", "trainable_tokens")
"""Methods that leave the packed layers as they are."""
_WITHOUT_DORA = ("gptq", "awq", "aqlm", "eetq")


@dataclass(frozen=True)
class AttachContext:
    """What a method may need to know when it is attached."""

    task_type: str
    """As peft spells it."""
    has_new_head: bool
    """Whether the base got a head without trained weights; else it is a language model."""
    seed: int
    """Seed of the adapter's own initialisation."""
    num_training_steps: int = 0
    """Optimizer steps of the whole run; 0 when nothing will be trained."""
    num_epochs: float = 0.0
    """Times that every training row is seen; 0 when nothing will be trained."""
    num_rows: int = 0
    """Rows that training and its evaluations show the model, each counted once."""
    num_tokens: int = 0
    """Tokens of these rows."""
    device: str = "cpu"
    """Where training will run; the model itself may still be on the CPU."""
    training_batches: Callable[[int, int], list[dict[str, Any]]] | None = None
    """Draws training rows by the seed, for initialisations that look at data: as many rows (all, where there are
    fewer), in batches of as many. Of a batch of tensors the model's forward gives a loss. None: there are no rows."""
    added_token_ids: tuple[int, ...] = ()
    """Token ids that the base has never seen; their embeddings have to be trained and saved."""
    mixed_precision: bool = False
    """Whether training runs under autocast; what is trained then stays float32, or small updates would be lost."""
    new_modules: tuple[str, ...] = ()
    """Modules whose weights the checkpoint lacked, such as the pooler of a BERT that was only a language model."""
    base_commit: str | None = None
    """Resolved commit of a hub model, recorded with the adapter."""


class AdapterPlugin(Protocol):
    """The functions of a method. `config` is that method's own Config."""

    Config: type[AdapterSection]

    def attach(self, model: PreTrainedModel, config: Any, context: AttachContext) -> PreTrainedModel:
        """Make the model trainable by this method; the same or a wrapping model is returned.

        Raises:
            ConfigError: The section asks for what the model or the run does not have, such as a layer, a new head, or
                training of new tokens' embeddings.
            ModelError: The model has no modules that the method can adapt, or is not built as the method needs it.
        """

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write what was trained into a folder that the Hugging Face libraries can read."""

    def load(self, folder: Path, load_base: LoadBase) -> PreTrainedModel:
        """Load what `save` wrote, onto its base."""


def load_adapter(method: str) -> AdapterPlugin:
    """Load the plug-in of a method.

    Raises:
        KeyError: There is no such method.
    """
    return cast("AdapterPlugin", registry.load("adapters", method))


def explain_unservable(section: AdapterSection) -> str | None:
    """Say why a server such as vLLM cannot load what a method saves; None: it can."""
    reason = section.LIMITS.merge or section.LIMITS.serving or section.find_unservable()
    return f"a server cannot load what {section.method} saves: {reason}" if reason else None


def keep_float32(model: PreTrainedModel, context: AttachContext) -> None:
    """Hold the trained parameters in float32 under autocast; without it the dtypes have to match the base's."""
    if not context.mixed_precision:
        return
    for module in model.modules():
        own = [each for each in module.parameters(recurse=False) if each.is_floating_point()]
        trains = any(each.requires_grad for each in own)
        is_norm = all(each.dim() < 2 for each in own)  # CPUs take its weight and its bias in one precision only
        for parameter in own:
            if parameter.requires_grad or (trains and is_norm):
                parameter.data = parameter.data.float()


def head_modules(model: PreTrainedModel, new_modules: Iterable[str] = ()) -> list[str]:
    """Name the modules that stand outside the pretrained body of a plain model: the new task head.

    DistilBERT's `pre_classifier`, DeBERTa's `pooler` and ModernBERT's `head` are among them: they have no
    pretrained weights, so an adapter that froze them would classify through random numbers. So are modules
    of the body that the checkpoint lacked (`new_modules`, as in the attach context).
    """
    body = model.base_model_prefix
    head = [name for name, child in model.named_children() if name != body and any(True for _ in child.parameters())]
    return [*head, *(name for name in new_modules if name.split(".")[0] not in head)]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Take a model out of training, without dropout, for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class WholeModelSection(AdapterSection):
    """The `peft:` section of methods that train weights of the model itself, and save it whole."""

    LIMITS: ClassVar[Limits] = Limits(
        merge="there is no adapter to merge: final_model/ is the whole model already",
        adapter_path="there is no adapter: name the whole model in model.name_or_path",
    )

    def find_unused(self) -> dict[str, str]:
        """Say that there are no initial weights to draw: a head's are the run's."""
        reason = "there is no adapter; a new head is drawn by the run's seed"
        return {} if self.init_seed is None else {"init_seed": reason}


def save_whole(model: PreTrainedModel, folder: Path) -> None:
    """Write a plain model, for methods that leave one: config.json and safetensors."""
    model.save_pretrained(folder)


def load_whole(folder: Path, load_base: LoadBase) -> PreTrainedModel:
    """Load the whole model from its folder; the base is not needed."""
    return load_base(str(folder))


def format_problem(section: AdapterSection, stored: str | None, name: str) -> str | None:
    """Say why a method cannot be trained on a checkpoint stored as `gptq`, `awq`, `nf4`, None ...; None: it can.

    It is judged by what the installed peft can wrap. `name` is the user's for the checkpoint.
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
