"""The fused LoRA layer: equal to peft's layer, which takes over wherever more than the plain product is needed."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from utils.adapters.lora.fused_layer import FusedLinear, fuse_lora_layers


class Body(nn.Module):
    """Two linear layers, the first with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 10), nn.Linear(10, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def adapt(dtype=torch.float64, **settings):
    """Return an adapted body and its fused copy, with a non-zero B."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["first", "second"], init_lora_weights=False, **settings)
    plain = get_peft_model(Body().to(dtype), config)
    fused = copy.deepcopy(plain)
    assert fuse_lora_layers(fused) == 2
    return plain, fused


def train_once(model, x):
    """Return the output and the gradients of the inputs and of the trained parameters."""
    rows = x.clone().requires_grad_()
    result = model(rows)
    result.float().pow(2).sum().backward()
    return result, [rows.grad, *(each.grad for each in model.parameters() if each.requires_grad)]


def test_outputs_and_gradients_equal_pefts():
    plain, fused = adapt()
    rows = torch.randn(2, 5, 6, dtype=torch.float64)
    (expected, wanted), (result, grads) = train_once(plain, rows), train_once(fused, rows)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert len(grads) == len(wanted) == 5
    for grad, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-12, atol=1e-12)


def test_half_precision_equals_autocast():
    plain, fused = adapt(torch.float32)
    rows = torch.randn(2, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        (expected, wanted), (result, grads) = train_once(plain, rows), train_once(fused, rows)
    assert result.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(result, expected, rtol=2e-2, atol=2e-2)
    for grad, want in zip(grads, wanted, strict=True):
        assert grad.dtype == want.dtype == torch.float32
        torch.testing.assert_close(grad, want, rtol=5e-2, atol=5e-2 * float(want.abs().max()))


CASES = ["dropout", "evaluated", "disabled", "merged", "trained base", "two precisions", "two adapters"]


@pytest.mark.parametrize("case", CASES)
def test_unsupported_calls_fall_back_to_peft(case, monkeypatch):
    plain, fused = adapt(torch.float32, lora_dropout=0.5 if case == "dropout" else 0.0)
    monkeypatch.setattr("utils.adapters.lora.fused_layer._LoraProduct.apply", None)  # to be called would be an error
    for model in (plain, fused):
        match case:
            case "evaluated":
                model.eval()
            case "disabled":
                model.disable_adapter_layers()
            case "merged":
                model.merge_adapter()
            case "trained base":
                model.base_model.model.requires_grad_(True)
            case "two precisions":
                for name, each in model.named_parameters():
                    each.data = each.data.to(torch.float32 if "lora_" in name else torch.bfloat16)
            case "two adapters":
                model.add_adapter("other", LoraConfig(r=2, target_modules=["first", "second"]))
                model.base_model.set_adapter(["default", "other"])
    rows = torch.randn(5, 6).to(torch.bfloat16 if case == "two precisions" else torch.float32)
    torch.manual_seed(1)
    expected = plain(rows)
    torch.manual_seed(1)
    assert torch.equal(fused(rows), expected)


def test_unsupported_layers_are_not_fused():
    config = LoraConfig(r=2, target_modules=["first"], use_dora=True)
    assert fuse_lora_layers(get_peft_model(Body(), config)) == 0


def test_a_fused_adapter_merges_like_any_other():
    plain, fused = adapt()
    rows = torch.randn(3, 6, dtype=torch.float64)
    expected = plain(rows)
    assert isinstance(fused.base_model.model.first, FusedLinear)
    torch.testing.assert_close(fused.merge_and_unload()(rows), expected, rtol=1e-12, atol=1e-12)
