"""Non-finite values, diverging losses, and dying workers: the run reports them and keeps the last good state."""

from __future__ import annotations

import logging
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from utils.trainer.callbacks import DivergedError, LossWatch, find_divergence
from utils.trainer.checkpoint_files import find_checkpoints
from utils.trainer.failures import guard_training
from utils.trainer.watchdogs import NotFiniteError

EVERY_STEP = {
    "training__save_strategy": "steps", "training__save_steps": 1, "training__eval_strategy": "no",
    "training__report_to": "none", "training__save_total_limit": None, "training__load_best_model_at_end": False,
    "training__logging_steps": 1, "training__num_train_epochs": 2,
}  # fmt: skip


def finite_checkpoints(run: Any) -> list[str]:
    """List the checkpoints, asserting that none holds a non-finite weight."""
    kept = find_checkpoints(Path(run.config.training.output_dir))
    for each in kept:
        tensors = load_file(next(each.glob("*model.safetensors")))
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values()), each
    return [each.name for each in kept]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_row_with_a_non_finite_loss_is_named(accumulation, prepare_run, make_set, draw_rows, tiny_base, tmp_path):
    """One word's embedding is infinite: the batch with that row stops the run, in whichever epoch it comes."""
    base = tmp_path / "base"
    shutil.copytree(tiny_base("bert"), base)
    weights = load_file(base / "model.safetensors")
    name = next(key for key in weights if key.endswith("word_embeddings.weight"))
    from transformers import AutoTokenizer

    weights[name][AutoTokenizer.from_pretrained(base).convert_tokens_to_ids("film")] = float("inf")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    rows = [{**row, "text": row["text"].replace("film", "the")} for row in draw_rows(40)]
    rows[23]["text"] = "film " + rows[23]["text"]
    data = make_set("one", train=rows, validation=draw_rows(4, seed=1))
    keys = {**EVERY_STEP, "training__gradient_accumulation_steps": accumulation}
    run = prepare_run("bert", data, **keys, model={"name_or_path": str(base)}, training__per_device_train_batch_size=4)
    with pytest.raises(NotFiniteError) as stopped:
        run.trainer.train()
    said = str(stopped.value)
    step = run.trainer.state.global_step + 1
    assert said.startswith(f"step {step}: the loss is nan")
    assert "word_embeddings.weight is not finite" in said
    listed = said.partition("training rows: ")[2].partition(";")[0]
    assert "23" in listed.split(", ")
    assert len(listed.split(", ")) == 4
    assert finite_checkpoints(run) == [f"checkpoint-{number}" for number in range(1, step)]


def test_an_excessive_learning_rate(prepare_run):
    run = prepare_run("bert", **EVERY_STEP, training__learning_rate=1e38, training__max_grad_norm=0)
    with pytest.raises(NotFiniteError, match=r"step \d+: the (loss|gradient's norm) is (nan|inf)|no longer finite"):
        run.trainer.train()
    finite_checkpoints(run)


class _MakeGradientInfinite(TrainerCallback):
    """Callback that makes a gradient infinite, as an overflow in the backward pass does."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameter = next(p for p in kwargs["model"].parameters() if p.requires_grad)
        parameter.register_hook(lambda gradient: gradient * float("inf") if state.global_step == 2 else gradient)


def test_a_non_finite_gradient(prepare_run):
    run = prepare_run("bert", **EVERY_STEP)
    run.trainer.add_callback(_MakeGradientInfinite())
    with pytest.raises(NotFiniteError, match=r"step 3: the gradient's norm is .*the weights themselves are finite"):
        run.trainer.train()
    assert finite_checkpoints(run) == ["checkpoint-1", "checkpoint-2"]


def test_a_diverging_loss():
    falling = [2.0, 1.5, 1.2, 1.0, 0.9, 0.8]
    assert find_divergence([*falling, 3.4, 4.0, 5.0, 6.0, 7.0]) == pytest.approx(1.1)
    assert find_divergence([*falling, 3.4, 4.0, 5.0, 6.0]) is None, "four in a row"
    assert find_divergence([*falling, 1.9, 1.9, 1.9, 1.9, 1.9]) is None, "below the first loss"
    assert find_divergence([0.5, 0.01, 0.01, 0.01, 0.01, 0.02, 0.2, 0.3, 0.3, 0.2, 0.2]) is None


@pytest.mark.parametrize("choice", ["warn", "stop"])
def test_divergence_warns_or_stops_the_run(choice, caplog):
    from transformers import TrainerControl, TrainerState

    watch, state = LossWatch(choice), TrainerState(global_step=11)
    losses = [2.0, 1.5, 1.2, 1.0, 0.9, 0.8, 8.0, 8.0, 8.0, 8.0, 8.0]
    state.log_history = [{"loss": loss, "step": step} for step, loss in enumerate(losses)]
    with caplog.at_level(logging.WARNING, "utils"):
        if choice == "stop":
            with pytest.raises(DivergedError, match=r"training\.on_divergence: stop"):
                watch.on_log(None, state, TrainerControl(), logs={"loss": 8.0})
        else:
            for _ in range(2):
                watch.on_log(None, state, TrainerControl(), logs={"loss": 8.0})
            assert caplog.text.count("more than 3 times 1.1, the median before") == 1


def test_a_loss_of_exactly_zero_is_reported_once(prepare_run, caplog):
    """Class weights of 0 remove every row from the loss."""
    run = prepare_run("bert", **EVERY_STEP, training__max_steps=3)
    run.trainer.compute_loss_func = lambda outputs, labels, **_: outputs.logits.sum() * 0
    with caplog.at_level(logging.WARNING, "utils"):
        run.trainer.train()
    assert caplog.text.count("the training loss is exactly 0") == 1


@pytest.mark.slow
def test_a_dead_data_loader_worker(start_run, write_run):
    """In a separate process: torch raises the error wherever the process happens to be."""
    import psutil

    file, folder = write_run("classifier", training__dataloader_num_workers=1, training__max_steps=400)
    run = start_run("--config", str(file))
    run.wait_for(lambda: find_checkpoints(folder))
    while run.is_alive():  # a worker may just have ended with its epoch
        for child in psutil.Process(run.pid).children():
            with suppress(psutil.Error):
                if "resource_tracker" not in " ".join(child.cmdline()):
                    child.kill()
        time.sleep(0.02)
    assert run.end() == 1, run.said
    assert re.search(r"data loader's worker .*(Killed|has ended).*dataloader_num_workers", run.said), run.said
    assert find_checkpoints(folder)


def test_out_of_memory_is_detected_before_the_first_step(prepare_run, make_sft):
    """If the longest rows do not fit, no step is made."""
    from utils.trainer.failures import MemoryExhaustedError

    run = prepare_run(config=make_sft(training__try_longest_batch=True, training__max_steps=2))
    longest = max(run.data.train["length"][:])

    def refuse(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].numel() > 6 * longest:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    run.trainer.model.register_forward_pre_hook(refuse, with_kwargs=True)
    said = pytest.raises(MemoryExhaustedError, match="per_device_train_batch_size: 4")
    with said, guard_training(run.trainer, "sft.max_length: 128"):
        run.trainer.train()
    assert run.trainer.state.global_step == 0
