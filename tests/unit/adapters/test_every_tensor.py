"""A tensor that an adapter's file lacks is named, whatever the method and the kind of file: it would be random."""

from __future__ import annotations

import pytest

from scripts.matrix.rows import list_rows
from utils.adapters.adapter import load_adapter
from utils.adapters.trained_files import require_every_tensor
from utils.core.errors import ModelError

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
    assert any("classifier" in name or "score" in name for name in kinds.values()), "the head is among them"
    for gone in kinds.values():
        save_file({name: part for name, part in tensors.items() if name != gone}, file)
        with pytest.raises(ModelError, match=r"lacks .*tensors"):
            _load(attached, tmp_path)


def test_a_pickled_file_too(attach, tmp_path):
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
