"""What a run that is to be pushed to the hub must say, checked before it is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils.config.document import Document
from utils.core.errors import Problem

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig


def check_hub(config: RunConfig, document: Document) -> Iterator[Problem]:
    """Check what is pushed, and where, before the run that is to be pushed."""
    arguments = config.arguments
    if not arguments.get("push_to_hub"):
        return
    if (strategy := arguments.get("hub_strategy", "end")) != "end":
        message = (
            f"{strategy} is not done: final_model is pushed once it is proved, and checkpoints stay here; use end, or "
            "leave it out (training.hub_files names what is pushed besides)"
        )
        yield _problem("hub_strategy", message, document)
    name = arguments.get("hub_model_id") or Path(config.training.output_dir).resolve().name
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)):
        message = f"{name!r} is no name of a repository; set name, or owner/name"
        yield _problem("hub_model_id", message, document)


def _problem(name: str, message: str, document: Document) -> Problem:
    return Problem(message, f"training.{name}", document.place_of(("training", name)))
