"""The `model:` section."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from utils.config.section import Section

_DTYPE_SPELLINGS = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
}
_ATTENTION = (
    "sdpa",
    "eager",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flex_attention",
)
_QUANTIZATION_NAMES: dict[str, dict[str, Any] | None] = {
    "nf4": {"bits": 4, "type": "nf4"},
    "fp4": {"bits": 4, "type": "fp4"},
    "4bit": {"bits": 4},
    "int8": {"bits": 8},
    "8bit": {"bits": 8},
    "none": None,
}
_TYPES_OF_BITS = {4: ("nf4", "fp4"), 8: ("int8",)}
_DEFAULT_TYPE = {4: "nf4", 8: "int8"}


_REQUIRED_KEYS = {
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}


class RopeScalingSection(Section):
    """Extends rotary positions beyond the length that a model was trained with."""

    rope_type: Literal["linear", "dynamic", "yarn", "llama3", "longrope"]
    """linear (position interpolation), dynamic (NTK by length), yarn, llama3 or longrope, as in transformers."""
    factor: float = Field(gt=1)
    """Ratio of the new length to the original one: 4.0 makes 131,072 of 32,768 positions."""
    original_max_position_embeddings: int | None = Field(None, ge=1)
    """Length that the model was trained with; null: read from its config.json."""
    attention_factor: float | None = Field(None, gt=0)
    """yarn, longrope: scale of the attention; null: the method's own formula."""
    beta_fast: float | None = None
    """yarn: where extrapolation begins; null: 32."""
    beta_slow: float | None = None
    """yarn: where interpolation begins; null: 1."""
    low_freq_factor: float | None = None
    """llama3: required."""
    high_freq_factor: float | None = None
    """llama3: required."""
    short_factor: list[float] | None = None
    """longrope: required; one factor for each of the head_dim / 2 dimensions."""
    long_factor: list[float] | None = None
    """longrope: required; one factor for each of the head_dim / 2 dimensions."""

    @model_validator(mode="before")
    @classmethod
    def _accept_older_key(cls, values: Any) -> Any:
        """Accept `type`, the key in older config.json files."""
        if isinstance(values, dict) and "type" in values and "rope_type" not in values:
            return {("rope_type" if key == "type" else key): value for key, value in values.items()}
        return values

    @model_validator(mode="after")
    def _check_required(self) -> RopeScalingSection:
        lacking = [name for name in _REQUIRED_KEYS.get(self.rope_type, ()) if getattr(self, name) is None]
        if lacking:
            raise ValueError(f"rope_type {self.rope_type} needs {' and '.join(lacking)}")
        return self


class QuantizationSection(Section):
    """How bitsandbytes stores the frozen base weights; the head and the embeddings stay unquantized."""

    ALIASES: ClassVar[dict[str, str]] = {
        "quant_type": "type",
        "bnb_4bit_quant_type": "type",
        "bnb_4bit_use_double_quant": "double_quant",
        "use_double_quant": "double_quant",
        "bnb_4bit_compute_dtype": "compute_dtype",
    }

    bits: Literal[4, 8] = 4
    """Bits per weight: 4 (QLoRA) or 8 (LLM.int8)."""
    type: Literal["nf4", "fp4", "int8"] | None = None
    """Number format: nf4 (default for 4 bits) or fp4 with 4 bits, int8 with 8."""
    double_quant: bool = True
    """4 bits only: quantize the scales as well, which saves about 0.4 bits per weight."""
    compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """4 bits only: precision of the matrix multiplications, for which the weights are dequantized."""

    @model_validator(mode="before")
    @classmethod
    def _complete_type_and_bits(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = {**values}
        if "bits" not in values and values.get("type") == "int8":
            values["bits"] = 8
        if values.get("type") is None and values.get("bits", 4) in (4, 8):
            values["type"] = _DEFAULT_TYPE[values.get("bits", 4)]
        return values

    @field_validator("compute_dtype", mode="before")
    @classmethod
    def _spell_out_dtype(cls, value: Any) -> Any:
        return _spell_dtype(value)

    @model_validator(mode="after")
    def _check_bits(self) -> QuantizationSection:
        allowed = _TYPES_OF_BITS[self.bits]
        if self.type not in allowed:
            raise ValueError(f"type {self.type} contradicts bits {self.bits}; use {' or '.join(allowed)}")
        if self.bits == 8:
            # A resolved file states defaults too, so only other values are rejected.
            for name in ("double_quant", "compute_dtype"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect with 8 bits; remove it, or use bits: 4")
        return self


class ModelSection(Section):
    """The base model and its tokenizer."""

    ALIASES: ClassVar[dict[str, str]] = {
        "use_auth_token": "token",
        "torch_dtype": "dtype",
        "model_name_or_path": "name_or_path",
        "pretrained_model_name_or_path": "name_or_path",
        "model_name": "name_or_path",
        "model_id": "name_or_path",
        "model_path": "name_or_path",
        "name": "name_or_path",
        "path": "name_or_path",
        "model_revision": "revision",
        "attention": "attn_implementation",
        "_attn_implementation": "attn_implementation",
        "quantization_config": "quantization",
        "additional_special_tokens": "extra_special_tokens",
    }

    name_or_path: str
    """Hub name such as `Qwen/Qwen2.5-1.5B`, or a folder that holds config.json and safetensors weights."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null: the main branch. The resolved commit is recorded."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision of the weights in memory. auto: the `dtype` in the checkpoint's config.json, else that of its first
    floating-point weight. It never sets the precision of the computation; training.bf16 and training.fp16 do."""
    attn_implementation: str = "sdpa"
    """Attention code: sdpa, eager, flash_attention_2 (3, 4), flex_attention, or the hub name of a kernel. If an
    architecture has no sdpa, eager is used with a warning."""
    trust_remote_code: bool = False
    """Run Python code that the checkpoint ships; only for checkpoints whose code you have read."""
    allow_pickle: bool = False
    """Load weights that are not safetensors (pytorch_model.bin, adapter_model.bin): such a file can contain code, and
    only torch's restricted unpickler protects this machine from it."""
    token: bool | None = None
    """true: authenticate to the hub with HF_TOKEN or the stored login; false: never; null: only if the hub requires it.
    The secret itself is never written here."""
    device_map: str | dict[str, int | str] | None = None
    """Placement over several devices, such as auto; null: the trainer places the model."""
    quantization: QuantizationSection | None = None
    """Store the frozen base in fewer bits: nf4, fp4, int8, or a mapping; null: as the checkpoint stores it, which may
    already be quantized (GPTQ, AWQ, torchao, bitsandbytes ...)."""
    rope_scaling: RopeScalingSection | None = None
    """Extend rotary positions beyond the length the model was trained with: {rope_type: yarn, factor: 4.0}; null: as in
    its config.json."""
    chat_template: str | None = None
    """chatml, r1 (DeepSeek-R1's turns, made trainable by keeping thoughts as part of the answer), the name of a
    template that trl ships (qwen3_training, llama3_training ...), or a Jinja template file; null: the tokenizer's
    own."""
    extra_special_tokens: list[str] = []
    """Tokens to add to the vocabulary; their embeddings are trained and saved."""
    pad_token: str | None = None
    """Padding token, which must be in the vocabulary; null: the tokenizer's own, or an otherwise unused reserved
    token."""

    @field_validator("name_or_path")
    @classmethod
    def _check_not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty; use a hub name such as Qwen/Qwen2.5-0.5B, or a folder")
        return value.strip()

    @field_validator("dtype", mode="before")
    @classmethod
    def _spell_out_dtype(cls, value: Any) -> Any:
        return _spell_dtype(value)

    @field_validator("attn_implementation")
    @classmethod
    def _check_attention(cls, value: str) -> str:
        if value not in _ATTENTION and "/" not in value:
            raise ValueError(f"{value} is unknown; use {', '.join(_ATTENTION)}, or a kernel's hub name (owner/name)")
        return value

    @field_validator("token", mode="before")
    @classmethod
    def _reject_secret(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(
                "takes true, false or null, never the secret itself; write `token: true` and set HF_TOKEN "
                "or run `hf auth login` (if the file was shared, revoke the token)"
            )
        return value

    @field_validator("quantization", mode="before")
    @classmethod
    def _read_shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value.lower() not in _QUANTIZATION_NAMES:
                known = ", ".join(_QUANTIZATION_NAMES)
                raise ValueError(f"{value} is unknown; use {known}, or a mapping with bits and type")
            return _QUANTIZATION_NAMES[value.lower()]
        if isinstance(value, dict) and value.get("type") is not None:
            return {**value, "type": str(value["type"]).lower()}
        return value

    @property
    def location(self) -> str:
        """The folder with `~` expanded, or the hub name unchanged."""
        return str(Path(self.name_or_path).expanduser()) if is_local(self.name_or_path) else self.name_or_path


def is_local(name_or_path: str) -> bool:
    """Return whether a model's name is a folder: it exists, or looks like a path (a hub name has one slash)."""
    written_so = name_or_path.startswith(("./", "../", "/", "~")) or name_or_path.count("/") > 1
    return written_so or os.path.isdir(name_or_path)


def _spell_dtype(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = value.removeprefix("torch.")
    return _DTYPE_SPELLINGS.get(value, value)
