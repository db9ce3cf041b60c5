"""What a run leaves in its folder: every method, regression, and runs that fail or only evaluate."""

from __future__ import annotations

import json

import pytest

from utils.core.errors import CheckError, DataError


def _read(run, name):
    return json.loads((run / name).read_text())


@pytest.mark.parametrize("method", ["none", "head-only"])
def test_methods_without_adapter_export_the_whole_model(train, method):
    answer, run = train(peft={"method": method})
    final = run / "final_model"
    assert (final / "config.json").is_file()
    assert (final / "model.safetensors").is_file()
    assert not (final / "adapter_config.json").exists()
    assert answer["reload_check"]["largest_logit_difference"] < 1e-5
    assert answer["method"] == method


def test_regression_ends_with_its_own_metrics(train, make_set, draw_rows):
    rows = [{**row, "label": index * 0.7} for index, row in enumerate(draw_rows(20))]
    answer, run = train(data=make_set("r", train=rows, validation=rows[:9]), dataset__num_labels=1)
    assert answer["best_metric"]["name"] == "pearson"
    results = _read(run, "all_results.json")
    assert {"eval_pearson", "eval_spearmanr", "eval_combined_score", "eval_mse", "eval_loss"} <= set(results)
    assert _read(run, "labels.json") == []


def test_without_training_the_base_is_evaluated_and_nothing_exported(train, caplog):
    answer, run = train(training__do_train=False)
    assert answer["status"] == "success"
    assert answer["method"] == "none"
    assert 0 <= answer["metrics"]["accuracy"] <= 1
    assert not (run / "final_model").exists()
    assert not list(run.glob("checkpoint-*"))
    assert not (run / "train_results.json").exists()
    assert "train_loss" not in _read(run, "all_results.json")
    assert answer["params"]["trainable"] == 0
    assert "peft has no effect" in caplog.text


def test_a_run_with_a_single_validation_row(train, make_set, draw_rows):
    answer, _ = train(data=make_set("one", train=draw_rows(9), validation=draw_rows(1, seed=1)))
    assert answer["reload_check"]["rows"] == 1


def test_new_tokens_are_trained_exported_and_verified(train, make_set):
    rows = [{"text": f"<new> w{index}", "label": index % 2} for index in range(16)]
    answer, run = train(
        "llama", make_set("new", train=rows, validation=rows[:6]), model__extra_special_tokens=["<new>"]
    )
    assert answer["reload_check"]["largest_logit_difference"] < 1e-5
    from utils.runs.open_model import open_run

    _, tokenizer = open_run(run).load()
    assert "<new>" in tokenizer.get_vocab()


def test_a_failed_run_is_recorded_as_failed(train, make_set, draw_rows, tmp_path):
    with pytest.raises(DataError, match="split train"):
        train(data=make_set("bad", train=[{"body": "a", "label": 1}], validation=draw_rows(3)))
    record = _read(tmp_path / "run", "results.json")
    assert record["status"] == "failed"
    assert record["error"].startswith("DataError: ")
    assert record["task_name"] == "tiny"


def test_a_corrupted_export_fails_the_run(train, monkeypatch, tmp_path):
    """Weights that change on their way to disk are detected before anyone relies on them."""
    from utils.runs import export

    save = export.export_model

    def save_and_corrupt(folder, *arguments):
        from safetensors.torch import load_file, save_file

        save(folder, *arguments)
        file = folder.final_model / "adapter_model.safetensors"
        save_file({key: -value for key, value in load_file(file).items()}, file, metadata={"format": "pt"})

    monkeypatch.setattr(export, "export_model", save_and_corrupt)
    with pytest.raises(CheckError, match="the saved model is not the trained one") as caught:
        train("llama")
    assert caught.value.exit_code == 1
    assert _read(tmp_path / "run", "results.json")["status"] == "failed"


def test_probe_rows_are_texts_spread_over_the_split(train, make_set, draw_rows):
    _, run = train(data=make_set("many", train=draw_rows(8), validation=draw_rows(200, seed=1)))
    lines = (run / "probe_rows.jsonl").read_text().splitlines()
    assert len(lines) == 64
    lengths = [len(json.loads(line)["text"].split()) for line in lines]
    assert max(lengths) > 3 * min(lengths), "short and long rows"


def test_the_best_checkpoint_is_linked(train):
    answer, run = train(training__num_train_epochs=3, training__save_total_limit=1)
    link = run / "best_model"
    assert link.is_symlink()
    assert link.resolve().name == f"checkpoint-{answer['best_metric']['step']}"
    assert (link / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    "keys",
    [
        {"training__bf16": True, "peft": {"method": "none"}},
        {"model__dtype": "bfloat16", "training__bf16": True},
        pytest.param({"training__gradient_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param(
            {"training__save_strategy": "best", "training__dataloader_drop_last": True}, marks=pytest.mark.slow
        ),
        {"training__eval_strategy": "no", "training__save_strategy": "no", "training__max_steps": 2},
    ],
    ids=lambda keys: "-".join(key.split("__")[-1] for key in keys),
)
def test_settings_that_change_training_end_in_a_verified_export(train, keys):
    answer, run = train(**keys)
    assert answer["status"] == "success"
    check = answer["reload_check"]
    assert check["largest_logit_difference"] <= check["tolerance"]
    assert (run / "final_model").is_dir()
