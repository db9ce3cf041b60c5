"""Find the model on a server that a user names, and check that it can be used."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from utils.adapters.adapter import explain_unservable, load_adapter
from utils.config.sections.model import ModelSection, is_local
from utils.config.sections.peft import AdapterSection
from utils.core.errors import UserError
from utils.generation.server import ServedModel, open_server
from utils.modeling.base_identity import fingerprint_base, is_same_base
from utils.runs.model_ref import ModelRef, TrainedModel

logger = logging.getLogger(__name__)


def find_served(url: str, name: str | None, model: ModelRef) -> ServedModel:
    """Find the server's model for a run or a published model, whose prompts and tokenizer are used.

    Raises:
        UserError: It is a classifier, an adapter that no server can load, or the server has other weights.
    """
    if not model.generates:
        raise UserError(f"--server: {model.title} is a classifier, which generates nothing; leave --server out")
    method, folder, base = _find_adapter(model)
    refusal = explain_unservable(method) if method is not None else None
    if refusal and method is not None and method.LIMITS.merge:
        raise UserError(f"--server: {model.title}: {refusal}")
    served = open_server(url, name)
    if served.parent and refusal:
        raise UserError(f"--server: {model.title}: {refusal}")
    if method is not None and served.root and not served.parent and is_same_base(served.root, base):
        raise UserError(
            f"--server: {served.name} is the base {served.root} alone, without the adapter of {model.title}; start "
            f"vLLM with --enable-lora --lora-modules NAME={folder}, and name it by --served_model NAME"
        )
    if served.root and is_local(served.root):
        served = replace(served, weights=fingerprint_base(ModelSection(name_or_path=served.root)))
    source = f" (loaded from {served.root})" if served.root else ""
    logger.info("%s serves it as %s%s; prompts and tokenizer are those of %s", url, served.name, source, model.title)
    return served


def _find_adapter(model: ModelRef) -> tuple[AdapterSection | None, Path | None, str]:
    """Return an adapter's section and folder (None for a whole model), and the base's name."""
    if isinstance(model, TrainedModel):
        found = (model.config.peft, model.weights) if model.is_adapter else (None, None)
        return *found, model.config.model.name_or_path
    if model.adapter is None:
        return None, None, model.section.name_or_path
    return load_adapter(model.method).Config(method=model.method), model.adapter, model.section.name_or_path
