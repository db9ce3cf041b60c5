"""Code-Feedback: 68,000 conversations about code, in one or more exchanges.

A row: {"id": 1, "messages": [{"role": "user", "content": "Write a loop."}, {"role": "assistant", "content":
    "for ..."}]}.
Source: Zheng et al. 2024 (OpenCodeInterpreter), arXiv:2402.14658. humaneval and mbpp evaluate trained models.
"""

from __future__ import annotations

from typing import Literal

from utils.config.sections.dataset import InstructionSection
from utils.data.dataset import FREE_METRICS, InstructionSet
from utils.data.formats import conversations_format

HUB_ID = "m-a-p/Code-Feedback"
HUB_NAMES = ("code-feedback", "m-a-p/code-feedback")  # in lower case, since lookups ignore case
HELD_OUT = 500


class Config(InstructionSection):
    """Code-Feedback; the base model needs a chat template (model.chat_template)."""

    name: Literal["code_feedback"] = "code_feedback"

    def find_conflicts(self) -> dict[str, str]:
        """Return keys that contradict the rows, each with the correct setting."""
        found = super().find_conflicts()
        found.pop("system_prompt", None)
        if self.prompt_template is not None:
            found["prompt_template"] = "conversations go through the model's chat template; set model.chat_template"
        return found


def describe_instructions(config: Config) -> InstructionSet:
    """Describe the dataset; without a validation split, 500 rows are held out by their first request."""
    return InstructionSet(
        **config.locate(HUB_ID, validation_size=HELD_OUT),
        **vars(conversations_format("messages", {})),
        metrics=FREE_METRICS,
        protocol="code_feedback last answer, run's own chat template",
    )
