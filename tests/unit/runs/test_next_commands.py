"""The commands suggested after a run: listed only if they work, and they work as printed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from utils.results.record import RunRecord, read_record
from utils.run_config import load_run_config
from utils.runs.summary import list_next_commands

ROOT = Path(__file__).parents[3]


def _list(folder, config, record=None):
    record = record or RunRecord(status="success", task_name="t", task_type="SEQ_CLS", method="lora")
    return list_next_commands(folder, config, record)


def test_suggested_commands_use_and_merge_the_run(train, monkeypatch, tmp_path, capfd):
    import inference
    import merge_adapter
    from utils.cli.command_line import run_cli

    _, run = train(training__num_train_epochs=1, training__save_strategy="epoch")
    monkeypatch.chdir(tmp_path)
    _require_one_mode(run)
    commands = _list(run, load_run_config(run / "run.yaml", files=False), read_record(run))
    assert [Path(shlex.split(command)[1]).name for command in commands[:2]] == ["inference.py", "merge_adapter.py"]
    for command, module in zip(commands, (inference, merge_adapter), strict=False):
        python, script, *words = shlex.split(command)
        assert Path(shutil.which(python) or python).resolve() == Path(sys.executable).resolve()
        assert Path(script) == ROOT / f"{module.__name__}.py"
        assert run_cli(module.main, module.build(), words) == 0, capfd.readouterr().err
    merged = tmp_path / "merged" / run.name
    assert (merged / "merge_report.json").is_file()
    assert {file.stat().st_mode & 0o777 for file in merged.rglob("*") if file.is_file()} == {0o666 & ~_mask()}


def _require_one_mode(run):
    files = [file for folder in ("final_model", "best_model") for file in (run / folder).rglob("*") if file.is_file()]
    modes = {file.name: file.stat().st_mode & 0o777 for file in files}
    assert "adapter_model.safetensors" in modes
    assert set(modes.values()) == {0o666 & ~_mask()}


def _mask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("sections", "texts"),
    [
        ({"dataset": {"name": "glue", "subset": "cola"}}, 1),
        ({"dataset": {"name": "glue", "subset": "mrpc"}}, 2),
        ({"task_type": "CAUSAL_LM", "dataset": {"name": "gsm8k"}}, 1),
        ({"task_type": "CAUSAL_LM", "dataset": {"name": "a/b"}}, 1),
        ({"task_type": "CAUSAL_LM", "dataset": {"name": "a/b", "prompt_template": "{x} and {y}"}}, 2),
        ({"task_type": "CAUSAL_LM", "dataset": {"name": "qmsum"}}, 2),
    ],
)
def test_suggested_inference_has_the_number_of_texts_the_model_takes(sections, texts, tmp_path):
    from utils.config.yaml_text import dump_yaml

    (tmp_path / "run.yaml").write_text(
        dump_yaml({"task_type": "SEQ_CLS", "model": {"name_or_path": "a/b"}, "peft": {"method": "lora"}, **sections})
    )
    (tmp_path / "final_model").mkdir()
    use = _list(tmp_path, load_run_config(tmp_path / "run.yaml", files=False))[0]
    assert use.count("--input_text") == texts


def test_commands_that_do_not_work_are_not_suggested(tmp_path, make_config):
    config = make_config("bert", peft={"method": "none"})
    assert _list(tmp_path, config) == []
    (tmp_path / "final_model").mkdir()
    assert [Path(shlex.split(command)[1]).name for command in _list(tmp_path, config)] == ["inference.py"]
    (tmp_path / "logs").mkdir()
    assert _list(tmp_path, config)[-1].endswith(f"-m tensorboard.main --logdir {tmp_path / 'logs'}")
