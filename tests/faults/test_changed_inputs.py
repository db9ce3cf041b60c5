"""Rows or base that change before --resume, after success, or before an adapter is used are reported."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError, UserError
from utils.modeling.base_identity import fingerprint_base
from utils.runs import export
from utils.runs.inputs import record_inputs, require_same_inputs
from utils.runs.open_model import open_run
from utils.runs.opening import open_run_folder


@pytest.fixture(params=["SEQ_CLS", "CAUSAL_LM"])
def started(request, kept, prepare_run, make_config, make_sft, tiny_base, tmp_path) -> tuple[Any, Path, Path, Path]:
    """Return a trained and exported run: its configuration, folder, rows and base."""
    base, rows = tmp_path / "base", tmp_path / "data" / "train.jsonl"
    keys = {"model": {"name_or_path": str(base), "dtype": "float32"}, "training__max_steps": 1,
            "training__save_strategy": "steps", "training__save_steps": 1, "training__report_to": "none"}  # fmt: skip
    if request.param == "SEQ_CLS":
        shutil.copytree(tiny_base("llama"), base)
        lines = [{"text": f"w{index} good", "label": index % 2} for index in range(12)]
        keys |= {"dataset": {"name": "custom", "path": str(rows.parent), "max_length": 16}}
        keys |= {"training__eval_strategy": "no", "training__load_best_model_at_end": False}

        def make():
            return make_config("llama", rows.parent, **keys)

    else:
        shutil.copytree(make_sft().model.name_or_path, base)
        lines = [{"prompt": f"What is {index}?", "completion": f" It is {index}."} for index in range(12)]
        keys["dataset"] = {"name": "custom", "path": str(rows)}

        def make():
            return make_sft(**keys)

    rows.parent.mkdir()
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (rows.parent / "validation.jsonl").write_text(rows.read_text())
    config = make()
    folder = Path(config.training.output_dir)
    if not (kept / request.param).exists():
        opened = open_run_folder(config)
        run = prepare_run(config=config)
        export.write_data_facts(opened, config, run.data)
        run.trainer.train()
        export.export_model(opened, config, run.trainer, run.tokenizer, run.data)
        opened.close()
        shutil.copytree(folder, kept / request.param, symlinks=True)
    else:
        shutil.copytree(kept / request.param, folder, symlinks=True)
        for file in folder.rglob("run*.yaml"):
            file.write_text(config.to_yaml())
        for file in folder.rglob("adapter_config.json"):
            file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)}))
        (folder / "checkpoint-1" / "complete.json").unlink()  # the paths in its files have other lengths now
    return config, folder, rows, base


def resume(config: Any, folder: Path) -> None:
    """Do what train.py does up to the check, without loading the model."""
    from utils.tasks.task import open_task

    record_inputs(folder, str(folder / "checkpoint-1"), config, open_task(config).fingerprint_rows())


def list_files(folder: Path) -> dict[Path, int]:
    return {each: each.stat().st_mtime_ns for each in folder.rglob("*") if each.is_file() and each.name != ".lock"}


def change_weight(base: Path) -> None:
    [file] = base.glob("*.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[-1]
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, file, {"format": "pt"})


def test_rows_are_identified_by_the_prepared_rows(started):
    config, folder, _, base = started
    written = json.loads((folder / "inputs.json").read_text())
    assert written["base"] == fingerprint_base(ModelSection(name_or_path=str(base)))
    resume(config, folder)
    require_same_inputs(folder, config, "is done")


def test_changed_rows_refuse_a_resume_and_do_not_count_as_done(started):
    config, folder, rows, _ = started
    before = (folder / "inputs.json").read_text()
    rows.write_text(rows.read_text().replace("7", "8"))
    with pytest.raises(UserError, match=r"cannot be resumed: its rows have changed \(\w+ then, \w+ now\)"):
        resume(config, folder)
    held = list_files(folder)
    with pytest.raises(UserError, match="cannot be resumed: its rows have changed"):
        open_run_folder(config, "last")
    assert list_files(folder) == held, "nothing is changed"
    with pytest.raises(UserError, match="is done: its rows have changed"):
        require_same_inputs(folder, config, "is done")
    assert (folder / "inputs.json").read_text() == before
    rows.unlink()
    require_same_inputs(folder, config, "is done")  # a warning, and resumed: nothing shows a change


def test_a_changed_base_refuses_a_resume_and_is_not_used(started):
    """Also in inference and merging, where the adapter would be applied to another model."""
    config, folder, _, base = started
    open_run(folder).load()
    change_weight(base)
    with pytest.raises(UserError, match="its base model has other weights"):
        resume(config, folder)
    with pytest.raises(UserError, match="is done: its base model has other weights"):
        require_same_inputs(folder, config, "is done")
    with pytest.raises(ModelError, match=r"its base model has other weights .* since it was trained; restore it"):
        open_run(folder).load()
    source = open_run(str(folder))
    with pytest.raises(ModelError, match="its base model has other weights"):
        source.load_unquantized(source.load_tokenizer(), "auto")


def test_an_edited_config_of_the_base_refuses_a_resume(started):
    config, folder, _, base = started
    path = Path(base) / "config.json"
    keys = json.loads(path.read_text("utf-8"))
    keys["transformers_version"] = "9"
    path.write_text(json.dumps(keys), "utf-8")
    resume(config, folder)
    keys["rms_norm_eps"] = 0.1
    path.write_text(json.dumps(keys), "utf-8")
    with pytest.raises(UserError, match=r"cannot be resumed: its base model's config\.json has changed"):
        resume(config, folder)


def test_another_configuration_is_not_reported_as_changed_rows(started):
    """Fewer rows are configured: they have not changed, and none is read to find out."""
    config, _, rows, _ = started
    rows.unlink()
    fewer = replace(config, dataset=config.dataset.model_copy(update={"max_train_samples": 4}))
    with pytest.raises(UserError, match=r"another configuration .*dataset\.max_train_samples was None, is 4"):
        open_run_folder(fewer, "last")


def test_a_run_of_an_older_version_is_resumed_with_a_warning(started, caplog):
    config, folder, _, _ = started
    (folder / "inputs.json").unlink()
    with caplog.at_level(logging.WARNING, "utils"):
        resume(config, folder)
    assert "does not record its rows and base" in caplog.text
    assert (folder / "inputs.json").is_file(), "from now on it does"


def test_weights_are_identified_independently_of_their_sharding(tiny_base, tmp_path):
    whole = ModelSection(name_or_path=str(tiny_base("llama")))
    [file] = Path(whole.location).glob("*.safetensors")
    tensors = load_file(file)
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2])):
        (tmp_path / "parts").mkdir(exist_ok=True)
        save_file(
            {name: tensors[name] for name in part}, tmp_path / "parts" / f"model-0000{number}-of-00002.safetensors"
        )
    parts = ModelSection(name_or_path=str(tmp_path / "parts"))
    assert fingerprint_base(parts) == fingerprint_base(whole) is not None
    for name in names:  # any tensor, anywhere in it
        flat = tensors[name].clone().reshape(-1)
        moved = flat + torch.finfo(flat.dtype).eps * flat.abs().clamp(min=1)
        changed = {**tensors, name: moved.reshape(tensors[name].shape)}
        save_file(changed, tmp_path / "model.safetensors")
        assert fingerprint_base(ModelSection(name_or_path=str(tmp_path))) != fingerprint_base(whole), name
    assert fingerprint_base(ModelSection(name_or_path="nobody/nothing")) is None
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nojson!!")
    assert fingerprint_base(ModelSection(name_or_path=str(tmp_path))) is None
