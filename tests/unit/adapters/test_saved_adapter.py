"""A saved adapter's files are complete, and each of their tensors matches a parameter."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from scripts.matrix.rows import list_rows
from utils.adapters.adapter import load_adapter
from utils.adapters.saved_adapter import (
    explain_damage,
    require_adapter_file,
    require_every_tensor,
    require_whole_tensors,
)
from utils.core.errors import CheckError, DataError, ModelError, UserError


def _raise(error):
    with explain_damage("outputs/mine", "the base"):
        raise error


def test_damaged_files_are_reported_in_one_sentence():
    with pytest.raises(
        ModelError, match=r"outputs/mine: cannot be used on the base \(JSONDecodeError: .*copy the folder again"
    ):
        _raise(json.JSONDecodeError("Expecting value", "{", 1))
    with pytest.raises(ModelError, match="outputs/mine: the weights do not fit the base: size mismatch for a: 2, 3"):
        _raise(RuntimeError("Error(s) in loading:\n\tsize mismatch for a: 2, 3\n\tsize mismatch for b: 1, 2"))
    with pytest.raises(UserError, match="outputs/mine: cannot be read: Permission denied"):
        _raise(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


@pytest.mark.parametrize("raised", ["DataError('ours')", "KeyError('a')", "KeyboardInterrupt()"])
def test_our_own_errors_keep_their_traceback(raised):
    """The same error raised by a library's code means damage."""
    from utils import adapters

    line, names = f"raise {raised}", {"DataError": DataError}
    with pytest.raises(type(eval(raised))), explain_damage("outputs/mine"):
        exec(compile(line, str(Path(adapters.__file__).with_name("any.py")), "exec"), names)
    if raised.startswith("KeyError"):
        with pytest.raises(ModelError, match=r"\(KeyError: 'a'\)"), explain_damage("outputs/mine"):
            exec(compile(line, "/site-packages/peft/any.py", "exec"), names)


def test_an_adapter_needs_its_weights(tmp_path):
    require_adapter_file(tmp_path, "mine", "lora")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ModelError, match=r"mine: .* holds adapter_config\.json and no adapter_model\.safetensors"):
        require_adapter_file(tmp_path, "mine", "lora")
    (tmp_path / "adapter_model.bin").write_text("")
    with pytest.raises(ModelError, match=r"mine: the adapter's weights are pickled .*model\.allow_pickle: true"):
        require_adapter_file(tmp_path, "mine", "lora")
    require_adapter_file(tmp_path, "mine", "lora", allow_pickle=True)


@pytest.mark.parametrize("file", ["adapter_config.json", "config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("held", ["null", "[1, 2]", "{}"])
def test_files_hold_the_expected_tensors(tmp_path, file, held):
    (tmp_path / file).write_text(held)
    if held == "{}" and "config.json" in file and file != "adapter_config.json":
        require_adapter_file(tmp_path, "mine", "lora")
        return
    with pytest.raises(
        ModelError, match=rf"{file}.* (does not hold what it should|is not a JSON object); .*copy the folder again"
    ):
        require_adapter_file(tmp_path, "mine", "lora")


def test_an_empty_tensor_is_refused(tmp_path):
    import torch
    from safetensors.torch import save_file

    with pytest.raises(CheckError, match="no weights were saved; with FSDP set fsdp_state_dict_type"):
        require_whole_tensors(tmp_path)
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4)}, tmp_path / "adapter_model.safetensors")
    assert require_whole_tensors(tmp_path) == 2
    save_file({"a": torch.ones(2, 3), "b": torch.ones(0)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckError, match="the tensor b is empty"):
        require_whole_tensors(tmp_path)


METHODS = {each.method: each.keys for each in reversed(list_rows()) if each.method not in ("none", "head-only")}


def _load(attached, folder):
    model = attached.plugin.load(folder, attached.load_base)
    require_every_tensor(model, folder, "mine", "its base")
    return model


@pytest.mark.parametrize("method", METHODS)
def test_each_kind_of_tensor(method, attach, tmp_path):
    from safetensors.torch import load_file, save_file

    is_decoder = "bert" in load_adapter(method).Config.LIMITS.model_types
    attached = attach("llama" if is_decoder else "bert", method, num_training_steps=100, **METHODS[method])
    attached.plugin.save(attached.model, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    kinds = {name.rsplit(".", 2)[-2] if "." in name else name: name for name in sorted(tensors)}
    if load_adapter(method).Config.LIMITS.classification is None:
        assert any("classifier" in name or "score" in name for name in kinds.values()), "the head is included"
    for gone in kinds.values():
        save_file({name: part for name, part in tensors.items() if name != gone}, file)
        with pytest.raises(ModelError, match=r"lacks .*tensors"):
            _load(attached, tmp_path)


def _save_lora(attach, folder):
    """Return an attached LoRA, and the file that it was saved to with its tensors."""
    from safetensors.torch import load_file

    attached = attach("llama", "lora")
    attached.plugin.save(attached.model, folder)
    file = folder / "adapter_model.safetensors"
    return attached, file, load_file(file)


def test_values_that_are_not_finite_are_rejected(attach, tmp_path):
    from safetensors.torch import save_file

    attached, file, tensors = _save_lora(attach, tmp_path)
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(ModelError, match=f"1 tensors such as {name} have values that are not finite"):
        _load(attached, tmp_path)


def test_a_pickled_file_is_checked_too(attach, tmp_path):
    import torch
    from safetensors.torch import load_file

    attached = attach("bert", "lora")
    attached.plugin.save(attached.model, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    torch.save(tensors, tmp_path / "adapter_model.bin")
    _load(attached, tmp_path)
    gone = next(name for name in tensors if "lora_B" in name)
    torch.save({name: part for name, part in tensors.items() if name != gone}, tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match=f"it lacks 1 tensors such as {gone}"):
        _load(attached, tmp_path)


def test_an_activated_lora_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "alora_invocation_tokens": "True"}')
    with pytest.raises(ModelError, match="activated LoRA"):
        require_adapter_file(tmp_path, "mine", "lora")


def test_weights_stored_as_whole_numbers_are_rejected(attach, tmp_path):
    import torch
    from safetensors.torch import save_file

    attached, file, tensors = _save_lora(attach, tmp_path)
    name = next(name for name in tensors if "lora_B" in name)
    for kind in (torch.int8, torch.bool):
        save_file({**tensors, name: tensors[name].to(kind)}, file)
        with pytest.raises(ModelError, match=f"1 tensors such as {name} are stored as whole numbers"):
            _load(attached, tmp_path)
