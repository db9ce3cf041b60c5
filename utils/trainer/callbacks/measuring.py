"""Measures a run: peak memory from just before training, and the time to the first optimizer step."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

GIB = 1024**3


class MeasuringCallback(TrainerCallback):
    """Resets the peak counters when training begins and reads them when asked.

    Args:
        started: `time.monotonic()` of the command's start.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self.time_to_first_step_s: float | None = None
        self.resumed_from_step = 0
        self._tokens_before = 0
        self.adapter_facts: dict[str, Any] = {}
        """What the adapter itself has measured; its model has a method `report_training` then."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the peaks of loading: they say nothing about training; note what an earlier session did."""
        self.resumed_from_step, self._tokens_before = state.global_step, state.num_input_tokens_seen
        for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
            torch.cuda.reset_peak_memory_stats(device)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note when the first step of this process ended."""
        if self.time_to_first_step_s is None:
            self.time_to_first_step_s = time.monotonic() - self._started

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask the adapter what it has measured."""
        tuner = getattr(kwargs.get("model"), "base_model", None)
        if (report := getattr(tuner, "report_training", None)) is not None:
            self.adapter_facts = report()

    def count_tokens(self, state: TrainerState) -> int:
        """Count the real tokens trained on in this session."""
        return int(state.num_input_tokens_seen - self._tokens_before)

    def read_memory(self) -> dict[str, Any]:
        """Give the peaks in GiB; a figure that this machine cannot measure is absent.

        `peak_rss_gb` is the whole process's largest resident set, loading included.
        """
        scale = 1 if sys.platform == "darwin" else 1024
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / GIB
        if not torch.cuda.is_initialized():
            return {"device": "cpu", "peak_rss_gb": rss}
        devices = range(torch.cuda.device_count())
        return {
            "device": "cuda",
            "peak_vram_gb": max(torch.cuda.max_memory_allocated(device) for device in devices) / GIB,
            "peak_vram_reserved_gb": max(torch.cuda.max_memory_reserved(device) for device in devices) / GIB,
            "peak_rss_gb": rss,
        }
