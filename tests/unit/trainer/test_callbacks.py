"""The progress of training and its measurements."""

from __future__ import annotations

import time


def test_progress_is_plain_lines_where_there_is_no_terminal(prepare_run, capfd):
    run = prepare_run("bert", training__logging_steps=2, training__num_train_epochs=2)
    run.trainer.train()
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("step ")]
    losses = [line for line in lines if "loss" in line and "evaluation" not in line]
    assert [line.split("  ")[0] for line in losses] == [f"step {step}/10" for step in (2, 4, 6, 8, 10)]
    assert all(part in losses[0] for part in ("lr ", "tokens/s", "eta "))
    assert losses[-1].endswith("eta 0:00")
    scores = [line for line in lines if "evaluation" in line]
    assert len(scores) == 2
    assert "accuracy 0." in scores[0]
    assert "runtime" not in scores[0]


def test_measuring_tells_the_first_step_and_the_memory(prepare_run):
    run = prepare_run("bert")
    run.measuring._started = time.monotonic() - 100
    assert run.measuring.time_to_first_step_s is None
    run.trainer.train()
    assert 100 < run.measuring.time_to_first_step_s < 130
    memory = run.measuring.read_memory()
    if memory["device"] == "cpu":
        assert set(memory) == {"device", "peak_rss_gb"}
    assert 0.05 < memory["peak_rss_gb"] < 64
