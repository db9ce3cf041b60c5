"""The `sft:` section: the fields that only the installed SFTConfig has, with this project's own values and texts."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, create_model

from utils.config.installed import read_fields
from utils.config.section import GENERATED, Section
from utils.config.sections.dataset import InstructionSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig
    from utils.data.encoding import ExampleEncoder

OURS = {
    "model_init_kwargs": "the model: section says how the base is loaded",
    "trust_remote_code": "set model.trust_remote_code",
    "chat_template_path": "set model.chat_template",
    "dataset_text_field": "set dataset.text_column",
    "dataset_kwargs": "the dataset: section says how rows are prepared",
    "truncation_mode": "set dataset.truncation: keep_answer, drop or error",
    "eos_token": "the tokenizer has it",
    "pad_token": "set model.pad_token",
}
"""Fields of SFTConfig whose settings are elsewhere."""

WITHOUT_EFFECT = {
    "assistant_only_loss": "only the assistant's turns of a conversation are trained on (completion_only_loss)",
    "dataset_num_proc": "rows are tokenised in batches and cached",
    "shuffle_dataset": "rows are always shuffled, by training.data_seed",
    "eval_packing": "evaluation rows are not packed: their loss is the mean over tokens either way",
}
"""Fields of SFTConfig that are accepted but have no effect, which a warning says."""


class OwnSftSection(Section):
    """Fields with own values or defaults; the installed library's other fields are added."""

    ALIASES: ClassVar[dict[str, str]] = {"max_seq_length": "max_length"}

    max_length: int = Field(1024, ge=8)
    """CAUSAL_LM: maximum tokens of a row; longer ones follow dataset.truncation."""
    completion_only_loss: bool = True
    """Train on answers only; false: on prompts too."""
    packing: bool = False
    """Fill rows of max_length tokens with several documents, which never attend to each other."""
    packing_strategy: Literal["bfd"] = "bfd"
    """Best fit decreasing; strategies that cut documents are not supported."""
    padding_free: bool | None = None
    """Concatenate the rows of a batch instead of padding them, which gives the same loss faster; null: if the model is
    verified to keep them apart."""
    loss_type: Literal["nll", "dft"] = "nll"
    """nll: cross-entropy; dft: each token weighted by its own probability."""

    def dump(self) -> dict[str, Any]:
        """Return the section's own keys, and those of the library that are set."""
        return {**self.model_dump(include=set(OwnSftSection.model_fields)), **self.model_dump(exclude_unset=True)}


@cache
def sft_section() -> type[OwnSftSection]:
    """Build the section's class from the installed SFTConfig."""
    shared = read_fields("transformers.training_args", "TrainingArguments")
    own = OwnSftSection.model_fields
    fields: dict[str, Any] = {
        name: (field.annotation if name not in WITHOUT_EFFECT else field.annotation | None, _describe(name, field.help))
        for name, field in read_fields("trl.trainer.sft_config", "SFTConfig").items()
        if name not in shared and name not in OURS and name not in own
    }
    return create_model("SftSection", __base__=OwnSftSection, __cls_kwargs__=GENERATED, **fields)


def build_encoder(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, kind: type[ExampleEncoder] | None = None
) -> ExampleEncoder:
    """Build the run's encoder of examples into token ids; `kind` defaults to the encoder of single examples."""
    from utils.data.encoding import ExampleEncoder

    sft = config.find_section(OwnSftSection)
    return (kind or ExampleEncoder).build(
        tokenizer,
        config.section(InstructionSection),
        config.max_length,
        train_on_prompt=sft is not None and not sft.completion_only_loss,
        length_key=config.length_key,
    )


def _describe(name: str, library: str) -> Any:
    description = f"Has no effect: {WITHOUT_EFFECT[name]}." if name in WITHOUT_EFFECT else library
    return Field(default=None, description=description or None)
