"""A trained model is found by any folder a user names, and folders that are not a run are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from utils.core.errors import ModelError, UserError
from utils.modeling.head import read_label_names
from utils.run_config import load_run_config
from utils.runs.open_model import open_published, open_run, open_with_config


def _logits(folder, texts):
    model, tokenizer = open_run(folder).load()
    rows = tokenizer(texts, padding=True, return_tensors="pt")
    return model.eval()(**rows).logits.tolist()


def test_every_folder_of_a_run_is_found(train, monkeypatch, make_set, draw_rows):
    rows = [{**row, "label": ("bad", "good")[row["label"]]} for row in draw_rows(24)]
    _, run = train(data=make_set("named", train=rows, validation=rows[:9]), training__num_train_epochs=2)
    checkpoints = sorted(run.glob("checkpoint-*"))
    assert len(checkpoints) == 2
    for folder in (run, run / "final_model", run / "best_model", *checkpoints):
        trained = open_run(folder)
        assert trained.label_names == ("bad", "good")
        assert (trained.weights / "adapter_config.json").is_file()
    monkeypatch.chdir(checkpoints[0])
    assert open_run(".").weights == checkpoints[0]
    model, tokenizer = open_run(run).load()
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert model.config.id2label == {0: "bad", 1: "good"}

    unfinished = run.with_name("unfinished")  # a run that was cut off has checkpoints, but no final_model
    shutil.copytree(run, unfinished, symlinks=True)
    shutil.rmtree(unfinished / "final_model")
    with pytest.raises(UserError, match=r"no final_model yet; .*--resume"):
        open_run(unfinished)
    assert len(_logits(unfinished / checkpoints[0].name, ["good w1"])[0]) == 2
    (unfinished / "labels.json").unlink()
    with pytest.raises(UserError, match=r"no labels\.json"):
        open_run(unfinished / checkpoints[0].name)


def test_final_model_is_self_contained(train, tmp_path):
    """Copied elsewhere, it still knows its base, its labels and its columns."""
    _, run = train()
    shutil.copytree(run / "final_model", tmp_path / "elsewhere")
    texts = ["good w1 w2", "bad w3"]
    assert _logits(tmp_path / "elsewhere", texts) == _logits(run, texts)


def test_an_adapter_without_a_tokenizer_takes_its_bases(train, tmp_path, caplog):
    """As saved by peft alone; for a run, whose own was lost, it is reported."""
    _, run = train()
    texts = ["good w1 w2", "bad w3"]
    expected = _logits(run, texts)
    bare = Path(shutil.copytree(run / "final_model", tmp_path / "bare"))
    for folder in (bare, run / "final_model"):
        for file in folder.glob("*token*"):
            file.unlink()
    (bare / "run.yaml").unlink()
    foreign = open_with_config(load_run_config(run / "run.yaml", files=False), str(bare))
    assert foreign.run is None
    model, tokenizer = foreign.load()
    assert model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits.tolist() == expected
    assert "holds no tokenizer" not in caplog.text
    assert _logits(run, texts) == expected
    assert f"{run / 'final_model'} has no tokenizer; that of " in caplog.text


@pytest.mark.parametrize(("make", "message"), [(False, "no such folder"), (True, "no run.yaml here or above")])
def test_folders_that_are_not_a_run_are_refused(tmp_path, make, message):
    folder = tmp_path / "a" / "b"
    if make:
        folder.mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        open_run(folder)


@pytest.mark.parametrize("written", ['["a"', "[1, 2]", '{"a": 1}', '["a"]', '["a", "a"]', "null"])
def test_damaged_class_names(written, tmp_path):
    file = tmp_path / "labels.json"
    file.write_text(written)
    with pytest.raises(ModelError, match=r"labels\.json: not .* copy the folder again"):
        read_label_names(file)
    file.write_text("[]")
    assert read_label_names(file) == ()


@pytest.mark.parametrize(
    "odd",
    [
        {"id2label": {"a": "x"}},
        {"id2label": ["a"]},
        {"num_labels": "x"},
        {"architectures": [None]},
        {"architectures": 7},
    ],
)
def test_a_published_classifier_with_a_damaged_config(odd, tmp_path):
    made = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], **odd}
    (tmp_path / "config.json").write_text(json.dumps(made))
    with pytest.raises(UserError, match=rf"config.json: {next(iter(odd))}.*: Input should be .*copy the folder again"):
        open_published(str(tmp_path))


def test_a_missing_run_lists_the_existing_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("outputs/first", "outputs/second", "elsewhere/third"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.yaml").write_text("task_type: SEQ_CLS\n")
    with pytest.raises(UserError) as caught:
        open_run("outputs/frist")
    named = str(caught.value).partition("; there are: ")[2].split(", ")
    assert sorted(named) == ["outputs/first", "outputs/second"]
    with pytest.raises(UserError, match=r"elsewhere: no run\.yaml here or above.*; there are: .*elsewhere/third"):
        open_run("elsewhere")
