"""The check that the saved model is the trained one, and that it detects differences."""

from __future__ import annotations

import pytest

from utils.adapters.adapter import load_adapter
from utils.core.errors import CheckError
from utils.modeling.base_model import load_base_model
from utils.tasks.probe import check_reload


def _load_saved(run, folder):
    def load_base(source):
        section = run.config.model
        if source is not None:
            section = section.model_copy(update={"name_or_path": source})
        return load_base_model(section, run.tokenizer, run.task.describe_head(run.data), run.config.seed)

    return load_adapter(run.config.peft.method).load(folder, load_base)


def _check(run, load_saved):
    return check_reload(run.trainer, run.task.choose_reload_rows(run.data, run.tokenizer), load_saved)


def _save(run, folder):
    load_adapter(run.config.peft.method).save(run.trainer.model, folder)


def _flip(folder, matching):
    """Flip the sign of one tensor in the saved file."""
    from safetensors.torch import load_file, save_file

    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    name = next(name for name in tensors if matching in name)
    save_file({**tensors, name: -tensors[name] - 0.1}, file, metadata={"format": "pt"})


@pytest.fixture(params=["lora", "none", "head-only"])
def trained(request, prepare_run, tmp_path):
    run = prepare_run("llama", peft={"method": request.param})
    run.trainer.train()
    _save(run, tmp_path / "saved")
    return run, tmp_path / "saved"


def test_a_good_save_passes(trained):
    run, folder = trained
    report = _check(run, lambda: _load_saved(run, folder))
    assert report["rows"] == 17
    assert report["largest_logit_difference"] <= 1e-5 < report["tolerance"]
    assert report["same_predictions"] == 1.0
    assert report["score_trained"] == report["score_reloaded"]


def test_a_corrupted_file_is_detected(trained):
    run, folder = trained
    _flip(folder, "score")
    with pytest.raises(CheckError, match="the saved model is not the trained one") as caught:
        _check(run, lambda: _load_saved(run, folder))
    assert caught.value.exit_code == 1


def test_a_corrupted_adapter_is_detected(prepare_run, tmp_path):
    run = prepare_run("llama")
    run.trainer.train()
    _save(run, tmp_path / "saved")
    _flip(tmp_path / "saved", "lora_B")
    with pytest.raises(CheckError):
        _check(run, lambda: _load_saved(run, tmp_path / "saved"))


def test_regression_and_one_row(prepare_run, make_set, draw_rows, tmp_path):
    rows = [{**row, "label": index / 3} for index, row in enumerate(draw_rows(10))]
    run = prepare_run("bert", make_set("one", train=rows, validation=rows[:1]), dataset__num_labels=1)
    run.trainer.train()
    _save(run, tmp_path / "saved")
    report = _check(run, lambda: _load_saved(run, tmp_path / "saved"))
    assert (report["rows"], report["same_predictions"]) == (1, None)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_base_passes_too(prepare_run, tiny_base, tmp_path, quantization):
    model = {"name_or_path": str(tiny_base("llama", 64)), "quantization": quantization}
    run = prepare_run("llama", model=model, training__num_train_epochs=2)
    run.trainer.train()
    _save(run, tmp_path / "saved")
    report = _check(run, lambda: _load_saved(run, tmp_path / "saved"))
    assert report["same_predictions"] == 1.0


def test_a_diverged_model_is_reported_as_such(prepare_run, tmp_path):
    import torch

    run = prepare_run("bert")
    with torch.no_grad():
        next(p for p in run.model.parameters() if p.requires_grad).fill_(float("nan"))
    _save(run, tmp_path / "saved")
    with pytest.raises(CheckError, match=r"has diverged; lower training\.learning_rate"):
        _check(run, lambda: _load_saved(run, tmp_path / "saved"))


def test_without_validation_rows_there_is_no_check(prepare_run, make_set):
    rows = [{"premise": "w1", "hypothesis": "w2", "label": -1}]
    dataset = {"name": "glue", "subset": "ax", "path": str(make_set("ax", test=rows))}
    run = prepare_run("bert", dataset=dataset, training__do_train=False)
    assert _check(run, lambda: None) is None


def test_the_trained_model_is_freed_before_the_saved_one_is_loaded(trained):
    import weakref

    run, folder = trained
    before = weakref.ref(run.trainer.model)
    run.model = None
    alive = []

    def load_saved():
        alive.append(before() is not None)
        return _load_saved(run, folder)

    _check(run, load_saved)
    assert alive == [False]
