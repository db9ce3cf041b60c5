"""Checks what a method supports on a given base, from its config.json, before any weights are loaded.

Checked with the file if config.json is on this machine, or else once it has come from the hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from utils.adapters.adapter import format_problem
from utils.adapters.adapter_path import find_adapter, find_adapter_conflicts, read_adapter_config, resolve_section
from utils.adapters.saved_adapter import ADAPTER_CONFIG
from utils.adapters.targets import list_layers, missing_layers
from utils.config.document import Document
from utils.config.section import Section
from utils.config.sections.model import ModelSection
from utils.config.sections.peft import AdapterSection
from utils.config.yaml_text import read_document
from utils.core.errors import ConfigError, Problem, UserError
from utils.modeling.base_identity import require_same_base
from utils.modeling.quantization import checkpoint_problem, load_model_config, read_format
from utils.modeling.sizes import count_layers, count_positions, counts_problem, has_position_table
from utils.modeling.source import OWN_TEMPLATES, find_template
from utils.run_config.reader import Header

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig


@dataclass(frozen=True)
class Asked:
    """What a run requires of its base."""

    peft: AdapterSection
    model: ModelSection
    length_key: str
    """Key that limits a row's tokens."""
    length: int
    """Maximum number of tokens in a row."""
    arguments: Mapping[str, Any]
    """Arguments of TrainingArguments, as far as they are known."""


def check_base(asked: Asked, base: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Check a run against its base's config.json, yielding keys with the reason and the alternative."""
    if problem := counts_problem(base):
        yield "model.name_or_path", problem
        return
    if not asked.arguments.get("do_train", True):
        return
    architecture = str(base.get("model_type", ""))
    limits = asked.peft.LIMITS
    if architecture in limits.model_types:
        yield "peft.method", f"{asked.peft.method} not on {architecture}; {limits.model_types[architecture]}"
    yield from _check_stored(asked, base)
    yield from _check_positions(asked, base)
    yield from _check_float16(asked, base)
    yield from _check_layers(asked, base)


def require_fitting_base(config: RunConfig) -> None:
    """Check a run against its base again, now that config.json can be fetched from the hub; no weights are loaded.

    Raises:
        ConfigError: The method does not support this base.
        ModelError: There is no config.json.
    """
    asked = Asked(config.peft, config.model, config.length_key, config.max_length, config.arguments)
    problems = [Problem(message, key) for key, message in check_base(asked, load_model_config(config.model))]
    if problems:
        raise ConfigError(problems)


def _check_stored(asked: Asked, base: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Check what an already quantized checkpoint allows, and what requires one."""
    stored = read_format(base)
    if asked.model.quantization is not None and stored and (problem := checkpoint_problem(asked.model, base)):
        yield "model.quantization", problem
    if problem := format_problem(asked.peft, stored, asked.model.name_or_path):
        yield "peft.method", problem


def _check_positions(asked: Asked, base: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Check that the model has positions for virtual tokens in addition to the text."""
    virtual, positions = asked.peft.virtual_tokens, count_positions(base, asked.model.rope_scaling)
    if positions is not None and virtual > positions // 2:
        yield "peft.num_virtual_tokens", f"{virtual} of the model's {positions} positions; leave the text half of them"
        return
    if not virtual or not has_position_table(base) or positions is None or asked.length + virtual <= positions:
        return
    room = positions - virtual
    remedy = f"set it to {room}" if room > 0 else "lower peft.num_virtual_tokens"
    message = f"{asked.length} tokens and {virtual} virtual ones (peft.num_virtual_tokens) are more than the model's "
    yield asked.length_key, f"{message}{positions} positions; {remedy}"


def _check_layers(asked: Asked, base: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Check that the layers that the method is limited to exist, as far as config.json counts them."""
    if (count := count_layers(base)) is None:
        return
    if absent := [layer for layer in list_layers(asked.peft) or () if layer >= count]:
        yield "peft.layers_to_transform", missing_layers(absent, count)


def _check_float16(asked: Asked, base: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Reject training of float16 weights: small updates are lost, and their gradients cannot be scaled."""
    dtype: str = asked.model.dtype
    if dtype == "auto":
        dtype = str(base.get("dtype") or base.get("torch_dtype") or "")
    if dtype.removeprefix("torch.") != "float16" or asked.arguments.get("fp16") or asked.arguments.get("bf16"):
        return
    stored = " (as the checkpoint is stored)" if asked.model.dtype == "auto" else ""
    message = (
        f"what is trained would be float16{stored}, which loses small updates; set bfloat16 or float32, or keep it "
        "with training.fp16: true (on a GPU), under which what is trained stays float32"
    )
    yield "model.dtype", message


_TOKENIZER_KEYS = ("chat_template", "extra_special_tokens", "pad_token")


def resolve_adapter(read: dict[str, Section], document: Document, notices: list[str]) -> list[Problem]:
    """Fill missing keys of the sections in `read` from the adapter's own settings.

    Returns the conflicts between the file and the adapter; `notices` gets a sentence if tokenizer settings are taken
    from the adapter's run.
    """
    header, model, peft = (read.get(name) for name in ("", "model", "peft"))
    if not isinstance(peft, AdapterSection) or peft.adapter_path is None or not isinstance(header, Header):
        return []

    def report(key: str, message: str) -> Problem:
        path = ("peft", key) if document.has(("peft", key)) else ("peft", "adapter_path")
        return Problem(message, f"peft.{key}", document.place_of(path))

    try:
        saved = read_adapter_config(peft)
        problems = [report(*each) for each in find_adapter_conflicts(peft, header.task_type, saved)]
        recorded = saved.get("base_model_name_or_path")
        if isinstance(model, ModelSection) and isinstance(recorded, str) and recorded:
            require_same_base(recorded, str(find_adapter(peft) / ADAPTER_CONFIG), model, document.source)
        run_file = _read_run_config(find_adapter(peft))
        if isinstance(model, ModelSection):
            read["model"] = _inherit_tokenizer(model, find_adapter(peft), run_file, document, notices)
        if not problems:
            # peft lists the modules that all-linear was resolved to.
            named = run_file.get(("peft", "target_modules"))
            read["peft"] = resolve_section(
                peft, {**saved, "target_modules": named} if isinstance(named, str) else saved
            )
    except UserError as error:
        return [report("adapter_path", str(error))]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return [report("adapter_path", f"the adapter's {where} cannot be trained on here: {first['msg']}")]
    return problems


def _read_run_config(adapter: Path) -> Document:
    """Read the configuration of an adapter's run, or an empty one if it was saved elsewhere."""
    file = next((each for each in (adapter / "run.yaml", adapter.parent / "run.yaml") if each.is_file()), None)
    return read_document(file) if file is not None else Document()


def _inherit_tokenizer(
    model: ModelSection, adapter: Path, run_file: Document, document: Document, notices: list[str]
) -> ModelSection:
    """Take over the chat template and tokens of an adapter's run, unless the file sets them."""
    wanted = {key: run_file.get(("model", key)) for key in _TOKENIZER_KEYS}
    taken = {key: value for key, value in wanted.items() if value and not document.has(("model", key))}
    template = taken.get("chat_template")
    if template and template not in OWN_TEMPLATES and find_template(template) is None:
        taken["chat_template"] = str(adapter / "chat_template.jinja")  # a template file that no longer exists
    if not taken:
        return model
    told = ", ".join(f"model.{key}: {value}" for key, value in taken.items())
    notices.append(f"{document.place_of(('peft', 'adapter_path'))}  peft.adapter_path: taken from its run: {told}")
    return ModelSection.model_validate({**model.model_dump(exclude_unset=True), **taken})
