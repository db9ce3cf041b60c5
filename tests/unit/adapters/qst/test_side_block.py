"""Side blocks follow the paper's formula with every kind of attention and every kind of KV cache."""

from __future__ import annotations

import pytest
import torch

from tests.unit.adapters.qst.conftest import compute_logits

DECODERS = (
    "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3", "phi", "gpt_neox", "cohere", "gpt2", "opt"
)  # fmt: skip
SLIDING = ("mistral", "gemma3")


def _write(model, ids, mask=None, **keys):
    return model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask, max_new_tokens=8, pad_token_id=0,
        eos_token_id=None, **{"do_sample": False, **keys},
    )  # fmt: skip


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("padding", [None, "left"])
def test_decoding_token_by_token_equals_one_forward_pass(build_base, attach_side_network, draw_batch, family, padding):
    """Also with left padding, and beyond sliding windows."""
    adapted, batch = attach_side_network(build_base(family)), draw_batch(padding)
    mask = batch["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    full = compute_logits(adapted, {**batch, "position_ids": positions})
    cache, found = None, []
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, 9)):
        with torch.no_grad():
            output = adapted(
                input_ids=batch["input_ids"][:, start:stop], attention_mask=mask[:, :stop],
                position_ids=positions[:, start:stop], past_key_values=cache, use_cache=True,
            )  # fmt: skip
        cache = output.past_key_values
        found.append(output.logits)
    assert len(cache.layers) == 6
    assert (torch.cat(found, 1) - full)[mask.bool()].abs().max() < 1e-5


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_is_the_same_with_and_without_kv_cache(
    build_base, attach_side_network, draw_batch, family, num_beams
):
    adapted, batch = attach_side_network(build_base(family)), draw_batch("left")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    cached, plain = (_write(adapted, ids, mask, num_beams=num_beams, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)
    with adapted.disable_adapter():
        base = _write(adapted, ids, mask, num_beams=num_beams)
    assert not torch.equal(base, cached)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_batched_generation_equals_single_row_generation(build_base, attach_side_network, draw_batch, family):
    adapted, batch = attach_side_network(build_base(family)), draw_batch("left")
    together = _write(adapted, batch["input_ids"], batch["attention_mask"])
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = _write(adapted, batch["input_ids"][row : row + 1, 9 - length :])
        assert torch.equal(alone[0, length:], together[row, 9:])


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma3", "gpt2"])
def test_a_static_cache_generates_the_same(build_base, attach_side_network, draw_batch, family):
    adapted, batch = attach_side_network(build_base(family)), draw_batch("left")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = _write(adapted, ids, mask)
    for _ in range(2):  # the model keeps the cache for its next call
        assert torch.equal(_write(adapted, ids, mask, cache_implementation="static"), expected)
    shorter = _write(adapted, ids[:, 3:], mask[:, 3:], cache_implementation="static")
    assert torch.equal(shorter, _write(adapted, ids[:, 3:], mask[:, 3:]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_assisted_generation_gives_the_same(build_base, attach_side_network, draw_batch, family):
    """Its rejected tokens are cropped from the side network's cache too."""
    adapted, ids = attach_side_network(build_base(family)), draw_batch(None)["input_ids"][:1]
    assert torch.equal(_write(adapted, ids, assistant_model=build_base(family)), _write(adapted, ids))
    assert torch.equal(_write(adapted, ids, prompt_lookup_num_tokens=2), _write(adapted, ids))


@pytest.mark.parametrize("family", ["llama", "mistral", "opt"])
def test_several_sequences_per_prompt(build_base, attach_side_network, draw_batch, family):
    adapted, ids = attach_side_network(build_base(family)), draw_batch(None)["input_ids"][:2]
    torch.manual_seed(0)
    cached = _write(adapted, ids, do_sample=True, num_return_sequences=3)
    torch.manual_seed(0)
    assert torch.equal(_write(adapted, ids, do_sample=True, num_return_sequences=3, use_cache=False), cached)


@pytest.mark.parametrize("family", [*DECODERS, "bert", "roberta", "distilbert", "modernbert"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_eager_and_sdpa_attention_agree(build_base, attach_side_network, draw_batch, family, padding):
    task_type = "CAUSAL_LM" if family in DECODERS else "SEQ_CLS"
    batch = draw_batch(padding)
    found = []
    for attention in ("sdpa", "eager"):
        adapted = attach_side_network(build_base(family, task_type, attn_implementation=attention))
        logits = compute_logits(adapted, batch)
        found.append(logits[batch["attention_mask"].bool()] if task_type == "CAUSAL_LM" else logits)
    assert (found[0] - found[1]).abs().max() < 2e-5


@pytest.mark.parametrize(
    "keys",
    [
        {"side_layers": "every_2"}, {"side_layers": [1]}, {"side_layers": [2, 0]}, {"downsample": "lora"},
        {"downsample": "linear"}, {"downsample": "maxpool"}, {"downsample": "avgpool"}, {"mix": "paper"},
        {"mix": "sigmoid"}, {"gate": "vector", "gate_init": 0.5}, {"side_head_dim": 4}, {"side_head_dim": 2},
        {"reduction_factor": 1}, {"reduction_factor": 32, "side_head_dim": 6}, {"checkpoint_side": True},
    ],
    ids=lambda keys: "-".join(map(str, keys.values())),
)  # fmt: skip
@pytest.mark.parametrize("family", ["gemma3", "cohere"])
def test_every_option_trains_and_generates(build_base, attach_side_network, draw_batch, family, keys):
    adapted, batch = attach_side_network(build_base(family), **keys), draw_batch("left")
    adapted.train()
    adapted(**batch, labels=batch["input_ids"]).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in adapted.parameters() if p.requires_grad)
    adapted.eval()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    cached, plain = (_write(adapted, ids, mask, num_beams=2, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)


def test_gradient_checkpointing_of_the_side_gives_the_same_gradients(build_base, attach_side_network, draw_batch):
    batch, found, calls = draw_batch(), [], []
    for recompute in (False, True):
        adapted = attach_side_network(build_base("llama"), checkpoint_side=recompute, side_dropout=0.3).train()
        side = adapted.base_model.mix.qst_side["default"]
        side.blocks[1].register_forward_pre_hook(lambda module, args, recompute=recompute: calls.append(recompute))
        torch.manual_seed(0)
        adapted(**batch, labels=batch["input_ids"]).loss.backward()
        found.append({name: p.grad for name, p in adapted.named_parameters() if p.requires_grad})
    assert calls == [False, True, True]
    assert all(torch.equal(grad, found[1][name]) for name, grad in found[0].items())


@pytest.mark.parametrize(("layout", "positions"), [("halves", 5), ("alternating", 5)])
def test_rotary_positions_of_narrow_heads_are_relative(layout, positions):
    """The product of a rotated query and key depends only on the distance between their positions."""
    from utils.adapters.qst.side_block import choose_frequencies, rotate

    frequencies = 10.0 ** -torch.linspace(0, 2, 8, dtype=torch.float64)
    angles = torch.arange(40, dtype=torch.float64)[:, None] * frequencies
    angles = torch.cat([angles, angles], -1) if layout == "halves" else angles.repeat_interleave(2, -1)
    cosines, sines = choose_frequencies(angles.cos()[None], angles.sin()[None], 6)
    assert cosines.shape == (1, 1, 40, 3)
    query, key = torch.randn(2, 1, 1, 1, 6, dtype=torch.float64).expand(2, 1, 1, 40, 6)
    products = rotate(query, cosines, sines)[0, 0] @ rotate(key, cosines, sines)[0, 0].T
    for distance in range(positions):
        diagonal = products.diagonal(distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-12
    assert products.diagonal(1)[0] != products.diagonal(0)[0]
