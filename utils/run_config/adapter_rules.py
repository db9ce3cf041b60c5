"""Holds the `peft:` section against the adapter that is trained on from, and completes it by what that adapter says."""

from __future__ import annotations

from pydantic import ValidationError

from utils.adapters.adapter_path import find_adapter, find_contradictions, read_adapter_config, settle_section
from utils.adapters.trained_files import ADAPTER_CONFIG
from utils.config.document import Document
from utils.config.section import Section
from utils.config.sections.adapter import AdapterSection
from utils.config.sections.model import ModelSection
from utils.core.errors import Problem, UserError
from utils.modeling.base_identity import require_same_base
from utils.run_config.sections import Header


def settle_adapter(read: dict[str, Section], document: Document) -> list[Problem]:
    """Put the adapter's own settings where the file has none; `read` is changed.

    Args:
        read: The sections that were read without mistakes.
        document: The file.

    Returns:
        What the file and the adapter do not agree in.
    """
    header, model, peft = (read.get(name) for name in ("", "model", "peft"))
    if not isinstance(peft, AdapterSection) or peft.adapter_path is None or not isinstance(header, Header):
        return []

    def report(key: str, message: str) -> Problem:
        path = ("peft", key) if document.has(("peft", key)) else ("peft", "adapter_path")
        return Problem(message, f"peft.{key}", document.place_of(path))

    try:
        made = read_adapter_config(peft)
        problems = [report(*each) for each in find_contradictions(peft, header.task_type, made)]
        recorded = made.get("base_model_name_or_path")
        if isinstance(model, ModelSection) and isinstance(recorded, str) and recorded:
            require_same_base(recorded, str(find_adapter(peft) / ADAPTER_CONFIG), model, document.source)
        if not problems:
            read["peft"] = settle_section(peft, made)
    except UserError as error:
        return [report("adapter_path", str(error))]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return [report("adapter_path", f"the adapter's {where} cannot be trained on here: {first['msg']}")]
    return problems
