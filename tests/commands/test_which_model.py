"""Which model is used: a run's own record wins in every command, and a contradiction names both sides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.commands.in_process import exit_code


def _disturb(base: Path) -> None:
    """Replace a base's weights with others of the same shapes."""
    from safetensors.torch import load_file, save_file

    file = base / "model.safetensors"
    save_file({name: part.flip(0).contiguous() for name, part in load_file(file).items()}, file, {"format": "pt"})


@pytest.fixture
def run(make_sft, tmp_path):
    """Train a run on its own base; return its folder."""
    base = tmp_path / "base"
    shutil.copytree(make_sft().model.name_or_path, base)
    config = make_sft(model__name_or_path=str(base), training__max_steps=3)
    assert exit_code("train", "--config", config.source) == 0
    return Path(config.training.output_dir)


@pytest.fixture
def name_base(run, tmp_path):
    """Return a function that writes the run's configuration with another base."""

    def write(base):
        own = yaml.safe_load((run / "run.yaml").read_text())
        own["model"]["name_or_path"] = str(base)
        file = tmp_path / "own.yaml"
        file.write_text(yaml.safe_dump(own))
        return file

    return write


def test_a_contradiction_names_both_and_the_record_wins(run, name_base, tmp_path, capsys, monkeypatch):
    base, other, merged = tmp_path / "base", tmp_path / "other", tmp_path / "merged"
    bare = shutil.copytree(run / "final_model", tmp_path / "bare" / "weights")
    (bare / "run.yaml").unlink()
    shutil.copytree(base, other)
    _disturb(other)
    text = ["--input_text", "Question: Tom has 4 apples and buys 3 more. How many?"]
    file = name_base(other)
    refused = [
        ["inference", "--config", file, "--model_path", run, *text],
        ["inference", "--config", file, "--model_path", bare, *text],
        ["merge_adapter", "--config", file, "--adapter_path", run, "--output", merged],
        ["merge_adapter", "--config", file, "--adapter_path", run / "final_model", "--output", merged],
        ["merge_adapter", "--config", file, "--adapter_path", bare, "--output", merged],
        ["evaluate_model", "--run", run, f"model.name_or_path={other}"],
    ]
    for words in refused:
        assert exit_code(*words) == 2, words
        told = capsys.readouterr().err
        assert str(base) in told, told
        assert str(other) in told, told
        assert "Traceback" not in told
    assert not merged.exists()

    capsys.readouterr()
    assert exit_code("inference", "--run", run, *text) == 0
    expected = capsys.readouterr().out
    monkeypatch.chdir(tmp_path)  # the same base by another spelling is the same base
    assert exit_code("inference", "--config", name_base("./base"), "--model_path", run, *text) == 0
    assert capsys.readouterr().out == expected
    for given in (run, run / "final_model"):
        words = ["--config", name_base("./base"), "--adapter_path", given, "--output", merged, "--overwrite"]
        assert exit_code("merge_adapter", *words) == 0
        report = json.loads((merged / "merge_report.json").read_text())
        assert report["probe"]["source"] == "probe_rows.jsonl"
        assert report["as_measured"]["largest_difference"] < 1e-4

    base.rename(tmp_path / "moved")
    capsys.readouterr()
    assert exit_code("inference", "--config", name_base(tmp_path / "moved"), "--model_path", run, *text) == 0
    answered = capsys.readouterr()
    assert answered.out == expected
    assert "which is not here" in answered.err


def test_a_merge_detects_a_changed_base(run, tmp_path, capsys):
    _disturb(tmp_path / "base")
    assert exit_code("merge_adapter", "--run", run, "--output", tmp_path / "merged") == 2
    (run / "inputs.json").unlink()  # an earlier version's run does not record its base
    capsys.readouterr()
    assert exit_code("merge_adapter", "--run", run, "--output", tmp_path / "merged") == 1
    told = capsys.readouterr().err
    assert "is not the model that was trained: its logits differ by" in told
    assert not (tmp_path / "merged").exists()


def test_a_run_is_not_taken_for_a_plain_model(make_config, tmp_path, capsys):
    """Its own record says how it is prompted, even for a full model in a run's folder."""
    file = make_config.write("bert", peft={"method": "none"}, training__max_steps=1, training__save_strategy="no")
    assert exit_code("train", "--config", file, "training.load_best_model_at_end=false") == 0
    weights = tmp_path / "run" / "final_model"
    for words in (["inference", "--input_text", "good"], ["evaluate_model", "--set", "glue:cola"]):
        for folder in (weights, weights.parent):
            capsys.readouterr()
            assert exit_code(words[0], "--model", folder, *words[1:]) == 2
            assert f"--model {folder}: the folder holds a run; name it by --run" in capsys.readouterr().err


def test_the_base_commit_an_adapter_was_trained_on_is_used(make_sft, tmp_path):
    """The hub's main branch may have moved on since."""
    from utils.runs.open_model import open_run

    commit = "0123456789" * 4
    config = make_sft()
    weights = tmp_path / "run" / "final_model"
    weights.mkdir(parents=True)
    own = config.to_dict()
    for revision, expected in ((None, commit), ("v1.0", "v1.0")):
        own["model"] |= {"name_or_path": "owner/base", "revision": revision}
        (tmp_path / "run" / "run.yaml").write_text(yaml.safe_dump(own))
        made = {"peft_type": "LORA", "base_model_name_or_path": "owner/base", "revision": commit}
        (weights / "adapter_config.json").write_text(json.dumps(made))
        assert open_run(tmp_path / "run").config.model.revision == expected


def test_a_run_works_from_another_folder(make_sft, tmp_path, monkeypatch, capsys):
    shutil.copytree(make_sft().model.name_or_path, tmp_path / "models" / "base")
    monkeypatch.chdir(tmp_path)
    config = make_sft(model__name_or_path="models/base", training__max_steps=2, training__output_dir="out/run")
    assert exit_code("train", "--config", config.source) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert exit_code("merge_adapter", "--run", "../out/run", "--output", "merged") == 0
    capsys.readouterr()
    asked = ("--set", "@test[:4]", "generation.max_new_tokens=4", "--json")
    assert exit_code("evaluate_model", "--run", "merged", *asked) == 0, "a merged model is scored like its run"
    assert exit_code("inference", "--run", "me/model", "--input_text", "a") == 2
    assert "or hub:me/model for one of the hub" in capsys.readouterr().err
    assert (tmp_path / "elsewhere" / "outputs" / "eval_merged").is_dir()


def test_a_chat_model_without_its_rows_treats_a_text_as_a_user_turn(make_sft, tmp_path, capsys):
    rows = tmp_path / "chats.jsonl"
    asked = ([{"role": "user", "content": f"{n} + 3?"}, {"role": "assistant", "content": str(n + 3)}] for n in range(8))
    rows.write_text("".join(f"{json.dumps({'messages': turns})}\n" for turns in asked))
    chat = {"model__chat_template": "chatml", "model__extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    config = make_sft(dataset={"name": str(rows), "validation_size": 2}, training__max_steps=1, **chat)
    assert exit_code("train", "--config", config.source) == 0
    rows.unlink()
    alone = tmp_path / "alone"
    shutil.copytree(Path(config.training.output_dir) / "final_model", alone)
    answers = []
    for folder in (config.training.output_dir, alone):
        capsys.readouterr()
        assert exit_code("inference", "--run", folder, "--input_text", "Hi", "--max_new_tokens", "2") == 0
        answers.append(json.loads(capsys.readouterr().out)["answer"])
    assert answers[0] == answers[1]
