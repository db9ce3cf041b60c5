"""Adapters that servers cannot load are converted to LoRA: the files are exact, and the loss is measured."""

from __future__ import annotations

import json

import pytest

from tests.slow_cases import mostly_slow
from utils.adapters.peft_tuners import TABLE
from utils.core.errors import CheckError, ModelError, UserError
from utils.merging.as_lora import convert_adapter, show_conversion
from utils.merging.merging import MergeOptions
from utils.merging.source import open_adapter_run

SIZES = {
    "c3a": {"block_size": 4},
    "gralora": {"r": 4},
    "lokr": {"r": 8},
    "miss": {"r": 4},
    "vblora": {"r": 2, "vector_length": 4, "num_vectors": 8},
    "waveft": {"n_frequency": 8},
    "fourierft": {"n_frequency": 8},
}


WHOLE = 128
"""The rank of the embedded base's queries."""


def open_run(run):
    return open_adapter_run(str(run.folder), as_lora=True)


def read_tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture
def train(make_config, make_sft, train_run, tmp_path):
    def start(method, family=None, folder="run", **sizes):
        peft = {"method": method, **SIZES.get(method, {}), **sizes}
        overrides = {"peft": peft, "training__output_dir": str(tmp_path / folder), "training__learning_rate": 0.05}
        return train_run(make_config(family, **overrides) if family else make_sft(**overrides))

    return start


def test_a_sufficient_rank_gives_the_same_model(train, tmp_path, capsys):
    run = train("lokr", target_modules=["q_proj"])
    report = convert_adapter(open_run(run), str(tmp_path / "lora"), WHOLE, MergeOptions())
    assert report["kept"]["share"] == pytest.approx(1, abs=1e-4)
    assert report["probe"]["update_kept"] == pytest.approx(1, abs=1e-3)
    assert report["probe"]["largest_difference"] <= report["probe"]["reread"]["tolerance"]
    made = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (made["peft_type"], made["r"], made["lora_alpha"], made["rank_pattern"]) == ("LORA", WHOLE, WHOLE, {})
    assert sorted(made["target_modules"]) == ["q_proj"]
    show_conversion(report)
    assert f"rank {WHOLE} holds 100.00% of the adapter's update" in " ".join(capsys.readouterr().out.split())


def test_an_insufficient_rank_reports_its_error(train, tmp_path, capsys):
    run = train("lokr")
    few, more = (convert_adapter(open_run(run), str(tmp_path / str(rank)), rank, MergeOptions()) for rank in (1, 4))
    assert 0 < few["kept"]["share"] < more["kept"]["share"] < 1
    assert few["kept"]["least"] <= few["kept"]["share"]
    assert few["probe"]["largest_difference"] > more["probe"]["largest_difference"]
    assert few["probe"]["reread"]["largest_difference"] <= few["probe"]["reread"]["tolerance"]
    show_conversion(few)
    assert "a higher rank keeps more" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("family", "method"), [("bert", "loha"), ("gpt2", "vera")])
def test_a_classifiers_head_is_included(family, method, train, tmp_path):
    run = train(method, family)
    report = convert_adapter(open_run(run), str(tmp_path / "lora"), 16, MergeOptions())
    head = [key for key in read_tensors(tmp_path / "lora") if "lora_" not in key]
    assert head
    assert all("classifier" in key or "score" in key for key in head)
    assert report["scores"]["lora"].keys() == report["scores"]["adapter"].keys()
    again = open_adapter_run(str(tmp_path / "lora"))
    model, _ = again.load()
    assert again.label_names == tuple(run.data.label_names)
    assert type(model).__name__.startswith("PeftModel")


@pytest.mark.parametrize(
    "method",
    mostly_slow([name for name, tuner in TABLE.items() if tuner.as_lora], "vera", "lokr", "miss"),
)
def test_every_convertible_method_is_converted(method, train, tmp_path):
    run = train(method)
    report = convert_adapter(open_run(run), str(tmp_path / "lora"), 16, MergeOptions(num_eval=0))
    assert 0 < report["kept"]["share"] <= 1 + 1e-6
    if report["kept"]["share"] > 0.9999:
        assert report["probe"]["largest_difference"] <= report["probe"]["reread"]["tolerance"]


def test_lora_can_be_reduced_in_rank(train, tmp_path):
    report = convert_adapter(open_run(train("lora", lora_r=8)), str(tmp_path / "lora"), 2, MergeOptions())
    assert report["rank"] == 2
    assert 0 < report["kept"]["share"] < 1


def test_unconvertible_adapters_are_refused(train, tmp_path):
    with pytest.raises(UserError, match=r"peft\.method hira: peft converts no adapter of this method into LoRA"):
        open_run(train("hira", folder="hira"))
    dora = open_run(train("lora", folder="dora", use_dora=True))
    with pytest.raises(ModelError, match="ignores the magnitudes of DoRA"):
        convert_adapter(dora, str(tmp_path / "lora"), 4, MergeOptions())
    lokr = open_run(train("lokr", folder="lokr"))
    with pytest.raises(UserError, match="--as_lora 4096: is more than a layer's own size"):
        convert_adapter(lokr, str(tmp_path / "lora"), 4096, MergeOptions())
    assert not (tmp_path / "lora").exists()


def test_files_that_differ_from_the_computation_are_removed(train, tmp_path, monkeypatch):
    import safetensors.torch

    from utils.merging import as_lora

    write = as_lora._write

    def spoil(*arguments):
        size = write(*arguments)
        tensors = read_tensors(arguments[-1])
        file = arguments[-1] / "adapter_model.safetensors"
        safetensors.torch.save_file({key: -each if "lora_A" in key else each for key, each in tensors.items()}, file)
        return size

    run = train("lokr")
    monkeypatch.setattr(as_lora, "_write", spoil)
    with pytest.raises(CheckError, match="the written LoRA"):
        convert_adapter(open_run(run), str(tmp_path / "lora"), 16, MergeOptions())
    assert not (tmp_path / "lora").exists()
