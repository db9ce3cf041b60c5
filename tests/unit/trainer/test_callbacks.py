"""Training progress, measurements, and the user's own callbacks."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from utils.core.errors import ConfigError, UserError
from utils.trainer.callbacks import load_callbacks
from utils.trainer.progress import ProgressCallback


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


def test_first_step_time_and_memory_are_measured(prepare_run):
    run = prepare_run("bert")
    run.measuring._started = time.monotonic() - 100
    assert run.measuring.time_to_first_step_s is None
    run.trainer.train()
    assert 100 < run.measuring.time_to_first_step_s < 130
    memory = run.measuring.read_memory()
    if memory["device"] == "cpu":
        assert set(memory) == {"device", "peak_rss_gb"}
    assert 0.05 < memory["peak_rss_gb"] < 64


@pytest.mark.parametrize(("step", "said"), [(0, ""), (7, "continues at step 8 of 20\n")])
def test_a_resumed_run_reports_where_it_continues(step: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    args = TrainingArguments(output_dir="x", use_cpu=True, report_to=[])
    capfd.readouterr()
    ProgressCallback().on_train_begin(args, TrainerState(global_step=step, max_steps=20), TrainerControl())
    assert capfd.readouterr().err == said


RECORDER = """
from pathlib import Path
from transformers import TrainerCallback


class Recorder(TrainerCallback):
    def on_log(self, args, state, control, logs, **_):
        with Path("seen.txt").open("a") as file:
            file.write(f"{state.global_step} {sorted(logs)}\\n")


NOT_ONE = dict
"""


@pytest.mark.parametrize("kind", ["classifier", "language model"])
def test_a_users_callback_receives_training_events(kind, prepare_run, make_sft, tmp_path, monkeypatch):
    (tmp_path / f"recorder_{kind[0]}.py").write_text(RECORDER)
    monkeypatch.chdir(tmp_path)
    keys = {"training__callbacks": [f"recorder_{kind[0]}:Recorder"], "training__max_steps": 2}
    keys |= {"training__logging_steps": 1, "training__eval_strategy": "no", "training__save_strategy": "no"}
    run = prepare_run(config=make_sft(**keys)) if kind == "language model" else prepare_run("bert", **keys)
    run.trainer.train()
    seen = (tmp_path / "seen.txt").read_text().splitlines()
    assert [line.split()[0] for line in seen] == ["1", "2", "2"]
    assert all("'loss'" in line for line in seen[:2])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("recorder_x:Missing", "training.callbacks: recorder_x has no Missing"),
        ("recorder_x:NOT_ONE", "training.callbacks: recorder_x:NOT_ONE is not a subclass of transformers"),
        ("recorder_y:Recorder", "recorder_y cannot be imported: .*: No module named 'package_that_is_missing'"),
    ],
)
def test_an_invalid_callback_is_refused_in_one_sentence(name, sentence, tmp_path, monkeypatch):
    (tmp_path / "recorder_x.py").write_text(RECORDER)
    (tmp_path / "recorder_y.py").write_text("import package_that_is_missing\n" + RECORDER)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        load_callbacks([name])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("recorder", "'recorder' is not module:Class"),
        ("..recorder:Recorder", "'..recorder:Recorder' is not module:Class"),
        (
            "nowhere.at_all:Recorder",
            "there is no module nowhere.at_all, neither installed nor in the working directory",
        ),
        ("recorder.inner:Recorder", "there is no module recorder.inner"),
        ("recorder:Missing", "recorder has no Missing"),
        ("broken:Recorder", "broken cannot be imported: .*broken.py:2: SyntaxError"),
    ],
)
def test_a_missing_callback_is_reported_with_its_line(name, sentence, make_config, tmp_path, monkeypatch):
    (tmp_path / "recorder.py").write_text(RECORDER)
    (tmp_path / "broken.py").write_text("\nx = (\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"tiny.yaml:\d+  training.callbacks: {sentence}"):
        make_config("bert", training__callbacks=[name])
    assert not {"recorder", "broken"} & sys.modules.keys(), "only their source is hashed"
    make_config(
        "bert",
        training__callbacks=[
            "recorder:Recorder",
            "os:path",
            "os.path:join",
            "transformers.trainer_callback:PrinterCallback",
        ],
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os.chdir('/')", None),
        ("return 5", "Harm, on_step_end returned 5; return the control"),
        ("raise BaseException('boo')", r"harm\.py:5: BaseException: boo"),
        ("raise type('Mute', (Exception,), {'__str__': None})", r"harm\.py:5: Mute$"),
        ("f = lambda: f(); f()", r"harm\.py:5: RecursionError"),
    ],
)
def test_what_a_callback_does_to_the_run_is_undone_or_said(body, said, tmp_path, monkeypatch):
    head = "import os\nfrom transformers import TrainerCallback\nclass Harm(TrainerCallback):\n"
    (tmp_path / "harm.py").write_text(f"{head}    def on_step_end(self, args, state, control, **_):\n        {body}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "harm", raising=False)
    [callback] = load_callbacks(["harm:Harm"])
    with pytest.raises(UserError, match=said) if said else nullcontext():
        callback.on_step_end(None, None, None)
    assert Path.cwd() == tmp_path
