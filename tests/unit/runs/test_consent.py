"""A folder's own files never allow its code to run; only an option of the command does."""

from __future__ import annotations

import importlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.adapters.adapter import load_adapter
from utils.core.errors import LoraNsError, UserError
from utils.modeling.consent import NO_CONSENT, Consent

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import PreTrainedTokenizerFast
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def run(kept: Path, prepare_run: Callable[..., Any], tmp_path: Path) -> Path:
    """Return the folder of a classifier's run, as train.py leaves it."""
    if not (kept / "run").exists():
        prepared = prepare_run("llama")
        folder = kept / "run"
        (folder / "final_model").mkdir(parents=True)
        load_adapter("lora").save(prepared.model, folder / "final_model")
        prepared.tokenizer.save_pretrained(folder / "final_model")
        (folder / "run.yaml").write_text(prepared.config.to_yaml())
        for place in (folder, folder / "final_model"):
            (place / "labels.json").write_text(json.dumps(list(prepared.data.coder.names)))
    shutil.copytree(kept / "run", tmp_path / "handed")
    return tmp_path / "handed"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Return the file that the folder's code creates when it runs."""
    return tmp_path / "it_ran"


def _set(file: Path, **keys: Any) -> None:
    settings = yaml.safe_load(file.read_text())
    settings["model"] |= keys
    file.write_text(yaml.safe_dump(settings))


def _ship_tokenizer_code(folder: Path, marker: Path) -> None:
    file = folder / "tokenizer_config.json"
    named = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": named, "tokenizer_class": "OwnTokenizer"}))
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))


def _call(command: str, *words: object) -> Any:
    script = importlib.import_module(command)
    arguments = script.build().parse_args([str(word) for word in words])
    return script.main(arguments)


def _commands(run: Path, out: Path) -> list[list[object]]:
    return [
        ["inference", "--run", run, "--input_text", "good w1"],
        ["evaluate_model", "--run", run],
        ["merge_adapter", "--run", run, "--output", out],
    ]


@pytest.mark.parametrize("command", [0, 1, 2])
def test_code_of_a_run_needs_the_option_of_the_command(command, run, marker, tmp_path, monkeypatch):
    """Not even a row `y` on standard input counts as consent."""
    _ship_tokenizer_code(run / "final_model", marker)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\n"))
    words = _commands(run, tmp_path / "merged")[command]
    with pytest.raises(LoraNsError, match="--trust_remote_code"):
        _call(*words)
    assert sys.stdin.read() == "y\ny\n"
    _set(run / "run.yaml", trust_remote_code=True)
    with pytest.raises(UserError, match=r"a folder cannot allow that itself: .* add --trust_remote_code$"):
        _call(*words)
    assert not marker.exists()
    _call(*words, "--trust_remote_code")
    assert marker.exists()


@pytest.mark.parametrize(
    ("keys", "flag"),
    [
        ({"allow_pickle": True}, "--allow_pickle"),
        ({"attn_implementation": "somebody/kernel"}, "--allow_hub_kernels"),
        ({"allow_pickle": True, "trust_remote_code": True}, "--trust_remote_code --allow_pickle"),
    ],
)
def test_every_kind_of_code_needs_its_own_option(keys, flag, run, tmp_path):
    _set(run / "run.yaml", **keys)
    for words in _commands(run, tmp_path / "merged"):
        with pytest.raises(UserError, match=f"add {flag}$"):
            _call(*words)


def test_pickled_weights_are_allowed_by_the_commands_option(run):
    import torch
    from safetensors.torch import load_file

    weights = run / "final_model" / "adapter_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    words = _commands(run, run)[0]
    with pytest.raises(LoraNsError, match=r"give --allow_pickle"):
        _call(*words)
    assert _call(*words, "--allow_pickle")["status"] == "success"


def test_a_merged_folder_cannot_allow_its_own_code(run, tmp_path):
    merged = tmp_path / "merged"
    _call("merge_adapter", "--run", run, "--output", merged)
    _set(merged / "merged_run.yaml", trust_remote_code=True)
    with pytest.raises(UserError, match=r"add --trust_remote_code$"):
        _call("inference", "--run", merged, "--input_text", "good")


def test_a_users_own_file_is_consent(run, marker, tmp_path):
    _ship_tokenizer_code(run / "final_model", marker)
    own = tmp_path / "own.yaml"
    shutil.copy(run / "run.yaml", own)
    _set(own, trust_remote_code=True)
    answer = _call("inference", "--config", own, "--model_path", run, "--input_text", "good w1")
    assert answer["status"] == "success"
    assert marker.exists()


def test_an_adapter_that_names_a_model_with_code_is_refused(run, marker, tmp_path, monkeypatch):
    """peft loads the model that a shadow adapter names, without passing trust_remote_code."""
    other = tmp_path / "other"
    other.mkdir()
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (other / "config.json").write_text(json.dumps(config))
    (other / "own.py").write_text(CODE.format(marker=str(marker)))
    file = run / "final_model" / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "SHADOW", "task_type": "SEQ_CLS", "shadow_model": str(other)}))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(LoraNsError, match="SHADOW"):
        _call(*_commands(run, run)[0])
    assert sys.stdin.read() == "y\n"
    assert not marker.exists()


def test_command_line_overrides_are_consent():
    from utils.config.yaml_text import read_overrides

    words = read_overrides(["model.trust_remote_code=true", "model.attn_implementation=somebody/kernel"])
    assert NO_CONSENT.with_overrides(words) == Consent(trust_remote_code=True, allow_hub_kernels=True)
    assert NO_CONSENT.with_overrides(read_overrides(["model.trust_remote_code=false"])) == NO_CONSENT
