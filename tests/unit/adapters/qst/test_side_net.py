"""The side network: its widths, its options, how its output is mixed in, and the formula in float64."""

from __future__ import annotations

import math

import pytest
import torch

from tests.unit.adapters.qst.conftest import compute_logits


@pytest.mark.parametrize("mix", ["paper", "sigmoid"])
def test_mixing_of_the_side_output(build_base, attach_side_network, draw_batch, mix):
    adapted, batch = attach_side_network(build_base("llama"), mix=mix), draw_batch()
    side, seen = adapted.base_model.mix.qst_side["default"], []
    adapted.base_model.mix.register_forward_hook(lambda module, args, output: seen.append(output))
    adapted.base_model.mix.base_layer.register_forward_hook(lambda module, args, output: seen.append(output))
    side.up.register_forward_hook(lambda module, args, output: seen.append(output))
    compute_logits(adapted, batch)
    end, update, mixed = seen
    share = side.alpha if mix == "paper" else 1 / (1 + torch.exp(-side.alpha))
    assert torch.allclose(mixed, share * end + (1 - share) * update, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "factor", "head_dim", "expected"),
    [
        (2048, 16, 64, (128, 512, 2, 64)),  # Llama-3.2-1B
        (4096, 16, 128, (256, 512, 2, 128)),  # Llama-2-7B's heads
        (1536, 16, 128, (96, 512, 1, 128)),  # Qwen2.5-1.5B: one head, wider than the side network
    ],
)
def test_widths(size, factor, head_dim, expected):
    from utils.adapters.qst import QSTConfig
    from utils.adapters.qst.backbone import BlockKind
    from utils.adapters.qst.side_net import choose_widths

    kind = BlockKind(size, 512 * factor, head_dim, True, False, "rms", 1e-6, "silu", True)
    widths = choose_widths(QSTConfig(reduction_factor=factor), kind)
    assert (widths.side_size, widths.intermediate_size, widths.num_heads, widths.head_dim) == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"reduction_factor": 3}, "reduction_factor: 3 does not divide hidden_size 32; 1, 2, 4, 8, 16, 32 do"),
        ({"side_head_dim": 5}, "side_head_dim: 5 must be even"),
        ({"side_layers": [3]}, "side_layers: .3. are not layers of the model, which has 0 to 2"),
        ({"side_layers": [-1]}, "side_layers"),
        ({"side_layers": []}, "side_layers"),
        ({"side_layers": "every_0"}, "side_layers: 'every_0'"),
        ({"side_layers": "half"}, "side_layers: 'half'"),
        ({"downsample": "conv"}, "downsample: 'conv' is not one of adapter, lora, linear, maxpool, avgpool"),
        ({"mix": "sum"}, "mix: 'sum'"),
        ({"gate": "none"}, "gate: 'none'"),
        ({"reduction_factor": 0}, "reduction_factor: must be 1 or more"),
        ({"downsample_rank": 0}, "downsample_rank: must be 1 or more"),
        ({"side_head_dim": 0}, "side_head_dim: must be 1 or more"),
    ],
)
def test_meaningless_options_are_refused_in_one_sentence(build_base, attach_side_network, keys, message):
    with pytest.raises(ValueError, match=message):
        attach_side_network(build_base("llama"), **keys)


@pytest.mark.parametrize(
    ("wanted", "expected"), [("all", [0, 1, 2, 3, 4]), ("every_2", [0, 2, 4]), ("every_4", [0, 4]), ("every_9", [4])]
)
def test_spaced_side_layers_end_with_the_last_layer(wanted, expected):
    from utils.adapters.qst.config import choose_side_layers

    assert choose_side_layers(wanted, 5) == expected


class _Formula:
    """An independent side network in float64, from its weights and the paper's formula alone."""

    def __init__(self, state, prefix, kind, heads, head_dim, causal, activation, theta):
        self.weights = {k.removeprefix(prefix): v.double() for k, v in state.items() if k.startswith(prefix)}
        self.kind, self.heads, self.head_dim, self.causal = kind, heads, head_dim, causal
        self.activation, self.theta = activation, theta

    def linear(self, name, x):
        bias = self.weights.get(f"{name}.bias")
        product = torch.einsum("btd,od->bto", x, self.weights[f"{name}.weight"])
        return product if bias is None else product + bias

    def norm(self, name, x, kind, eps):
        weight = self.weights[f"{name}.weight"]
        if kind == "rms":
            return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight + self.weights[f"{name}.bias"]

    def down(self, place, x):
        inner = self.linear(f"downs.{place}.0", x)
        inner = self.linear(f"downs.{place}.2", inner / (1 + torch.exp(-inner)))
        return self.norm(f"downs.{place}.3", inner, "layer", 1e-5)

    def turn(self, x):
        if self.theta is None:
            return x
        half = self.head_dim // 2
        angle = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * self.theta ** (-torch.arange(half) / half)
        turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag], -1)

    def attend(self, name, x, mask):
        rows, tokens, _ = x.shape
        query, key, value = (
            self.linear(f"{name}.{part}", x).view(rows, tokens, self.heads, self.head_dim).transpose(1, 2)
            for part in "qkv"
        )
        scores = self.turn(query) @ self.turn(key).transpose(-1, -2) / math.sqrt(self.head_dim)
        hidden = ~mask[:, None, None].bool().expand_as(scores)
        if self.causal:
            hidden = hidden | torch.ones(tokens, tokens).triu(1).bool()
        mixed = scores.masked_fill(hidden, -math.inf).softmax(-1) @ value
        return self.linear(f"{name}.o", mixed.transpose(1, 2).reshape(rows, tokens, -1))

    def update(self, states, mask, eps):
        g = self.down(0, states[0])
        for place, state in enumerate(states[1:]):
            beta = 1 / (1 + torch.exp(-self.weights["gates"][place]))
            g = (1 - beta) * self.down(place + 1, state) + beta * g
            block = f"blocks.{place}"
            g = g + self.attend(f"{block}.attention", self.norm(f"{block}.attention_norm", g, self.kind, eps), mask)
            x = self.norm(f"{block}.mlp_norm", g, self.kind, eps)
            inner = self.linear(f"{block}.mlp.up", x)
            gated = f"{block}.mlp.gate.weight" in self.weights
            inner = self.activation(self.linear(f"{block}.mlp.gate", x)) * inner if gated else self.activation(inner)
            g = g + self.linear(f"{block}.mlp.down", inner)
        return self.linear("up", self.norm("norm", g, self.kind, eps))


def _silu(x):
    return x / (1 + torch.exp(-x))


def _gelu(x):
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def _read_states(model, batch):
    """Return the backbone's h_0 .. h_N and the output of its body, read by the test's own hooks on the plain model."""
    states, end, body = [], [], model.base_model
    layers = body.layers if hasattr(body, "layers") else body.encoder.layer
    first = layers[0].register_forward_pre_hook(lambda m, args: states.append(args[0]))
    rest = [layer.register_forward_hook(lambda m, args, out: states.append(out)) for layer in layers]
    last = (body.norm if hasattr(body, "norm") else layers[-1]).register_forward_hook(lambda m, a, out: end.append(out))
    compute_logits(model, batch)
    for handle in (first, *rest, last):
        handle.remove()
    return states, end[0]


@pytest.mark.parametrize(("family", "task_type"), [("llama", "CAUSAL_LM"), ("bert", "SEQ_CLS")])
def test_logits_equal_the_formula(build_base, attach_side_network, draw_batch, family, task_type):
    model, batch = build_base(family, task_type), draw_batch()
    mask = batch["attention_mask"]
    double = build_base(family, task_type).double()
    with torch.no_grad():
        states, end = _read_states(double, batch)
        adapted = attach_side_network(model)
        trained = {name: p.detach() for name, p in adapted.state_dict().items()}
        prefix = next(name for name in trained if "qst_side.default." in name).split("default.")[0] + "default."
        if family == "llama":
            side = _Formula(trained, prefix, "rms", 1, 16, True, _silu, 10000.0)
            expected = (end + side.update(states, mask, 1e-6)) @ double.lm_head.weight.T
            found = compute_logits(adapted, batch)[mask.bool()]
            expected = expected[mask.bool()]
        else:
            side = _Formula(trained, prefix, "layer", 1, 16, False, _gelu, None)
            pooled = double.bert.pooler(end + side.update(states, mask, 1e-12))
            head = adapted.get_base_model().classifier.modules_to_save["default"].double()
            expected, found = head(pooled), None
            head.float()
            found = compute_logits(adapted, batch)
    assert expected.dtype == torch.float64
    assert (found - expected).abs().max() < 2e-5
