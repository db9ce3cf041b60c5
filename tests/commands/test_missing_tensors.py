"""Every command refuses a model with missing tensors and names them: it would answer at random."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands.in_process import exit_code


def _drop(file: Path, *names: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    gone = [key for key in tensors if key.endswith(names)]
    assert gone, sorted(tensors)
    save_file({key: part for key, part in tensors.items() if key not in gone}, file, {"format": "pt"})


def _train(make_config, tmp_path, method):
    file = make_config.write(
        "llama", peft={"method": method}, training__max_steps=2, training__save_strategy="steps",
        training__save_steps=1, training__eval_strategy="no", training__load_best_model_at_end=False,
    )  # fmt: skip
    assert exit_code("train", "--config", file) == 0
    return file, tmp_path / "run"


@pytest.fixture
def refuse(capsys):
    """Return a function that runs a command and checks that its error names the missing tensor."""

    def check(tensor, *words):
        capsys.readouterr()
        assert exit_code(*words) == 2, words
        told = capsys.readouterr().err
        assert tensor in told
        assert "lack" in told
        assert "Traceback" not in told

    return check


TEXT = ("--input_text", "good w1")


def test_a_classifier_with_missing_tensors(make_config, tmp_path, refuse):
    file, run = _train(make_config, tmp_path, "none")
    weights = run / "final_model" / "model.safetensors"
    whole = weights.read_bytes()
    for tensor in ("score.weight", "model.norm.weight"):
        _drop(weights, tensor)
        words = ["inference", "--run", run, *TEXT], ["evaluate_model", "--run", run]
        for each in words if tensor == "score.weight" else ():
            refuse(tensor, *each)
        weights.write_bytes(whole)
    assert exit_code("inference", "--run", run, *TEXT) == 0

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "final_model")
    tokenizer.add_tokens(["<another>"])
    tokenizer.save_pretrained(run / "final_model")
    refuse("of the embeddings", "inference", "--run", run, *TEXT)

    shutil.rmtree(run / "final_model")
    (run / "results.json").unlink()
    shutil.rmtree(run / "checkpoint-2")
    _drop(run / "checkpoint-1" / "model.safetensors", "score.weight")
    (run / "checkpoint-1" / "complete.json").unlink()
    refuse("score.weight", "train", "--config", file, "--resume")


def test_an_adapter_and_a_merged_model_with_missing_tensors(make_config, tmp_path, refuse):
    file, run = _train(make_config, tmp_path, "lora")
    merged = tmp_path / "merged"
    assert exit_code("merge_adapter", "--run", run, "--output", merged) == 0
    _drop(merged / "model.safetensors", "score.weight")
    refuse("score.weight", "inference", "--run", merged, *TEXT)
    weights = run / "final_model" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for tensor in ("score.weight", "layers.0.self_attn.q_proj.lora_A.weight"):
        _drop(weights, tensor)
        refuse(tensor, "inference", "--run", run, *TEXT)
        refuse(tensor, "evaluate_model", "--run", run)
        refuse(tensor, "merge_adapter", "--run", run, "--output", tmp_path / "again")
        weights.write_bytes(whole)
    shutil.rmtree(run / "final_model")
    (run / "results.json").unlink()
    shutil.rmtree(run / "checkpoint-2")
    _drop(run / "checkpoint-1" / "adapter_model.safetensors", "q_proj.lora_B.weight")
    (run / "checkpoint-1" / "complete.json").unlink()
    refuse("q_proj.lora_B.weight", "train", "--config", file, "--resume")
