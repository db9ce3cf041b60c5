"""The progress of training on a stream that is no terminal."""

from __future__ import annotations

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from utils.trainer.callbacks.progress import ProgressCallback


@pytest.mark.parametrize(("step", "said"), [(0, ""), (7, "goes on at step 8 of 20\n")])
def test_a_resumed_run_says_where_it_goes_on(step: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    args = TrainingArguments(output_dir="x", use_cpu=True, report_to=[])
    capfd.readouterr()
    ProgressCallback().on_train_begin(args, TrainerState(global_step=step, max_steps=20), TrainerControl())
    assert capfd.readouterr().err == said
