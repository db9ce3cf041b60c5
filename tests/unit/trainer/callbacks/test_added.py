"""Callbacks of the user's own are made, told of the training, and looked for before any data is read."""

from __future__ import annotations

import pytest

from utils.core.errors import ConfigError
from utils.trainer.callbacks.added import load_callbacks

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
def test_a_callback_of_the_users_is_told_of_the_training(kind, prepare_run, make_sft, tmp_path, monkeypatch):
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
        ("nowhere.at_all:Recorder", "training.callbacks: there is no module nowhere.at_all, neither installed nor in"),
        ("recorder_x:Missing", "training.callbacks: recorder_x has no Missing"),
        ("recorder_x:NOT_ONE", "training.callbacks: recorder_x:NOT_ONE is no subclass of transformers.TrainerCallback"),
        ("recorder_y:Recorder", "training.callbacks: recorder_y needs package_that_is_missing, which is not installed"),
    ],
)
def test_what_is_no_callback_is_a_sentence(name, sentence, tmp_path, monkeypatch):
    (tmp_path / "recorder_x.py").write_text(RECORDER)
    (tmp_path / "recorder_y.py").write_text("import package_that_is_missing\n" + RECORDER)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        load_callbacks([name])


def test_a_name_without_class_is_told_with_its_place(make_config):
    with pytest.raises(ConfigError, match=r"training.callbacks: 'recorder' is not module:Class"):
        make_config("bert", training__callbacks=["recorder"])
