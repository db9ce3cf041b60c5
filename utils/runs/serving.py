"""Which model of a server stands for the one that a user names, and whether it can."""

from __future__ import annotations

import logging
from dataclasses import replace

from utils.adapters.adapter import explain_unservable
from utils.config.sections.model import ModelSection, is_local
from utils.core.errors import UserError
from utils.generation.server import ServedModel, open_server
from utils.modeling.base_identity import fingerprint_base, is_same_base
from utils.runs.model_ref import ModelRef, TrainedModel

logger = logging.getLogger(__name__)


def find_served(url: str, name: str | None, model: ModelRef) -> ServedModel:
    """Find the server's model that stands for a run, or for a published model, whose prompts and tokenizer are taken.

    Raises:
        UserError: It is a classifier, an adapter that no server can load, or the server has other weights.
    """
    if not model.generates:
        raise UserError(f"--server: {model.title} is a classifier, which writes nothing; leave --server out")
    refusal = explain_unservable(model.config.peft) if isinstance(model, TrainedModel) and model.is_adapter else None
    if refusal and isinstance(model, TrainedModel) and model.config.peft.LIMITS.merge:
        raise UserError(f"--server: {model.title}: {refusal}")
    served = open_server(url, name)
    if served.parent and refusal:
        raise UserError(f"--server: {model.title}: {refusal}")
    if isinstance(model, TrainedModel) and _is_base_alone(served, model):
        raise UserError(
            f"--server: {served.name} is the base {served.root} alone, without the adapter of {model.title}; start "
            f"vLLM with --enable-lora --lora-modules NAME={model.weights}, and name it by --served_model NAME"
        )
    if served.root and is_local(served.root):
        served = replace(served, weights=fingerprint_base(ModelSection(name_or_path=served.root)))
    told = f" (loaded from {served.root})" if served.root else ""
    logger.info("%s writes as %s%s; its prompts and its tokenizer are %s's", url, served.name, told, model.title)
    return served


def _is_base_alone(served: ServedModel, model: TrainedModel) -> bool:
    same = served.root is not None and is_same_base(served.root, model.config.model.name_or_path)
    return model.is_adapter and same and not served.parent
