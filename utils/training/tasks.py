"""Opens the kind of training that a run asks for: HF Trainer for SEQ_CLS, TRL's SFTTrainer for CAUSAL_LM."""

from __future__ import annotations

from utils.training.protocols import RunSettings, Task


def open_task(settings: RunSettings) -> Task:
    """Open the kind of training that a run asks for."""
    if settings.task_type == "CAUSAL_LM":
        from utils.training.causal_task import CausalTask

        return CausalTask(settings)
    from utils.training.classification_task import ClassificationTask

    return ClassificationTask(settings)
