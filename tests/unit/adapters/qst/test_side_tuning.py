"""A side network starts as the identity, leaves the backbone unchanged, and learns: over all model families."""

from __future__ import annotations

import math

import pytest
import torch

from tests.unit.adapters.qst.conftest import compute_logits

DECODERS = (
    "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3", "phi", "gpt_neox", "cohere", "gpt2", "opt"
)  # fmt: skip
ENCODERS = ("bert", "roberta", "distilbert", "deberta_v2", "modernbert")
FAMILIES = [*((family, "CAUSAL_LM") for family in DECODERS), *((family, "SEQ_CLS") for family in (*ENCODERS, "llama"))]
every_family = pytest.mark.parametrize(("family", "task_type"), FAMILIES)


@every_family
@pytest.mark.parametrize("mix", ["residual", "paper"])
def test_the_initial_output_is_the_base_bit_for_bit(
    build_base, attach_side_network, draw_batch, family, task_type, mix
):
    model, batch = build_base(family, task_type), draw_batch()
    base = compute_logits(model, batch)
    adapted = attach_side_network(model, scattered=False, mix=mix)
    assert torch.equal(compute_logits(adapted, batch), base)


@every_family
def test_disabling_the_adapter_gives_the_base_and_enabling_restores_it(
    build_base, attach_side_network, draw_batch, family, task_type
):
    model, batch = build_base(family, task_type), draw_batch()
    base = compute_logits(model, batch)
    adapted = attach_side_network(model)
    beside = compute_logits(adapted, batch)
    assert (beside - base).abs().max() > 1e-2
    with adapted.disable_adapter():
        assert torch.equal(compute_logits(adapted, batch), base)
    assert torch.equal(compute_logits(adapted, batch), beside)


@every_family
def test_rows_do_not_influence_each_other(build_base, attach_side_network, draw_batch, family, task_type):
    adapted, batch = attach_side_network(build_base(family, task_type)), draw_batch()
    before = compute_logits(adapted, batch)
    batch["input_ids"] = batch["input_ids"].clone()
    batch["input_ids"][0] = torch.arange(10, 19)
    after = compute_logits(adapted, batch)
    real = batch["attention_mask"].bool() if task_type == "CAUSAL_LM" else torch.ones(4, dtype=torch.bool)
    real[0] = False
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[real], after[real])


@every_family
def test_padding_does_not_change_the_output(build_base, attach_side_network, draw_batch, family, task_type):
    adapted, batch = attach_side_network(build_base(family, task_type)), draw_batch()
    together = compute_logits(adapted, batch)
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = compute_logits(adapted, {name: each[row : row + 1, :length] for name, each in batch.items()})[0]
        real = together[row, :length] if task_type == "CAUSAL_LM" else together[row]
        assert (real - alone).abs().max() < 2e-5


@every_family
def test_no_graph_in_the_backbone_and_gradients_for_all_trained_parameters(
    build_base, attach_side_network, draw_batch, family, task_type
):
    adapted, batch = attach_side_network(build_base(family, task_type)), draw_batch()
    adapted.enable_input_require_grads()
    adapted.gradient_checkpointing_enable()
    layers = adapted.get_base_model().get_submodule(adapted.base_model.backbone.layers_path)
    graphs = []

    def note(layer, args, output):
        output = output[0] if isinstance(output, tuple) else output
        graphs.append(output.grad_fn is not None or output.requires_grad)

    layers = [layer.base_layer if hasattr(layer, "qst_side") else layer for layer in layers]
    for layer in layers:
        layer.register_forward_hook(note)
    adapted.train()
    labels = torch.tensor([0, 1, 0, 1]) if task_type == "SEQ_CLS" else batch["input_ids"]
    adapted(**batch, labels=labels).loss.backward()
    assert graphs == [False] * 3
    still = [n for n, p in adapted.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not still
    touched = [n for n, p in adapted.named_parameters() if not p.requires_grad and p.grad is not None]
    assert not touched
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(
    ("family", "task_type", "mix"),
    [("llama", "CAUSAL_LM", "residual"), ("opt", "CAUSAL_LM", "paper"), ("bert", "SEQ_CLS", "residual"),
     ("llama", "SEQ_CLS", "sigmoid")],
)  # fmt: skip
def test_all_trained_parameters_move_under_autocast(
    build_base, attach_side_network, draw_batch, family, task_type, mix
):
    """At lr 2e-4 a bfloat16 gate would never move."""
    model, batch = build_base(family, task_type).to(torch.bfloat16), draw_batch()
    adapted = attach_side_network(model, scattered=False, mix=mix).train()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    assert {p.dtype for name, p in trained.items() if "qst_" in name} == {torch.float32}
    labels = torch.tensor([0, 1, 0, 1]) if task_type == "SEQ_CLS" else batch["input_ids"]
    optimizer = torch.optim.AdamW(trained.values(), lr=2e-4)
    losses = []
    for _ in range(50):
        with torch.autocast("cpu", torch.bfloat16):
            loss = adapted(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert not [name for name, p in trained.items() if torch.equal(p, before[name])]
    gates = next(p for name, p in trained.items() if name.endswith("gates"))
    assert (gates.detach().abs() > 1e-3).all()
    assert math.isfinite(losses[-1])


@pytest.mark.parametrize(
    ("family", "drops"),
    [
        ("gpt2", {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}),
        ("opt", {"dropout": 0.5}),
        ("bert", {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}),
        ("distilbert", {"dropout": 0.5, "attention_dropout": 0.5}),
    ],
)
def test_backbone_dropout_is_off_and_head_dropout_on(build_base, attach_side_network, draw_batch, family, drops):
    batch = draw_batch()
    task_type = "SEQ_CLS" if family in ENCODERS else "CAUSAL_LM"
    adapted = attach_side_network(build_base(family, task_type, **drops))
    seen = []
    adapted.base_model.mix.observe = lambda states: seen.append([states[index] for index in sorted(states)])
    still = compute_logits(adapted, batch)
    adapted.train()
    one, other = compute_logits(adapted, batch), compute_logits(adapted, batch)
    assert all(torch.equal(a, b) for states in seen[1:] for a, b in zip(states, seen[0], strict=True))
    assert torch.equal(one, still) == torch.equal(one, other) == (family not in ENCODERS)
    dropped = {n for n, part in adapted.named_modules() if isinstance(part, torch.nn.Dropout) and part.training}
    assert all("qst_side" in name or name.endswith("model.dropout") for name in dropped)
    adapted.eval()
    assert torch.equal(compute_logits(adapted, batch), still)
    assert not any(part.training for part in adapted.modules())


def test_side_dropout_applies_in_training_only(build_base, attach_side_network, draw_batch):
    adapted, batch = attach_side_network(build_base("llama"), side_dropout=0.5), draw_batch()
    assert torch.equal(compute_logits(adapted, batch), compute_logits(adapted, batch))
    adapted.train()
    assert not torch.equal(compute_logits(adapted, batch), compute_logits(adapted, batch))


@pytest.mark.parametrize(("dtype", "autocast"), [("bfloat16", False), ("bfloat16", True), ("float16", False)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "bert"])
def test_a_backbone_in_half_precision(build_base, attach_side_network, draw_batch, family, dtype, autocast, attention):
    task_type = "SEQ_CLS" if family == "bert" else "CAUSAL_LM"
    model = build_base(family, task_type, attn_implementation=attention).to(getattr(torch, dtype))
    base = compute_logits(model, draw_batch("left"))
    adapted = attach_side_network(model, scattered=False)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        start = compute_logits(adapted, draw_batch("left"))
        assert start.isfinite().all()
        assert autocast or torch.equal(start, base)
        adapted.train()
        batch = draw_batch("left")
        labels = torch.tensor([0, 1, 0, 1]) if task_type == "SEQ_CLS" else batch["input_ids"]
        loss = adapted(**batch, labels=labels).loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", ["llama", "gemma3", "bert"])
def test_float32_under_autocast_with_eager_masks_stays_finite(build_base, attach_side_network, draw_batch, family):
    """The smallest float32 is minus infinity in bfloat16, and padding rows attend to nothing else."""
    task_type = "SEQ_CLS" if family == "bert" else "CAUSAL_LM"
    adapted = attach_side_network(build_base(family, task_type, attn_implementation="eager")).train()
    batch = draw_batch("left")
    with torch.autocast("cpu", torch.bfloat16):
        logits = adapted(**batch).logits
    logits.float().pow(2).mean().backward()
    assert logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in adapted.parameters())


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "deberta_v2"])
def test_a_model_of_one_layer_and_any_number_of_labels(build_base, attach_side_network, draw_batch, family, num_labels):
    changes = {"num_hidden_layers": 1, "num_labels": num_labels}
    model = build_base(family, "SEQ_CLS", **changes)
    model.config.problem_type = "regression" if num_labels == 1 else "single_label_classification"
    batch = draw_batch()
    base = compute_logits(model, batch)
    adapted = attach_side_network(model, scattered=False)
    assert torch.equal(compute_logits(adapted, batch), base)
    assert base.shape == (4, num_labels)
    adapted.train()
    labels = torch.tensor([0.0, 1, 0, 1]) if num_labels == 1 else torch.tensor([0, 1, 2, 1])
    adapted(**batch, labels=labels).loss.backward()
    assert [n for n, p in adapted.named_parameters() if p.grad is not None and p.grad.any() and "qst_" in n]


@pytest.mark.parametrize(("family", "task_type"), [("llama", "CAUSAL_LM"), ("gpt2", "CAUSAL_LM"), ("bert", "SEQ_CLS")])
def test_additional_model_outputs(build_base, attach_side_network, draw_batch, family, task_type):
    model, batch = build_base(family, task_type, attn_implementation="eager"), draw_batch()
    with torch.no_grad():
        base = model(**batch, output_hidden_states=True, output_attentions=True)
    adapted = attach_side_network(model)
    with torch.no_grad():
        plain = adapted(**batch).logits
        beside = adapted(**batch, output_hidden_states=True, output_attentions=True)
        embeds = adapted.get_input_embeddings()(batch["input_ids"])
        from_embeds = adapted(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
    assert torch.equal(beside.logits, plain)
    assert torch.equal(from_embeds, plain)
    assert [each.shape for each in beside.hidden_states] == [each.shape for each in base.hidden_states]
    assert all(torch.equal(a, b) for a, b in zip(beside.hidden_states[:-1], base.hidden_states[:-1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(beside.attentions, base.attentions, strict=True))


def test_token_types_reach_the_side_network(build_base, attach_side_network, draw_batch):
    adapted, batch = attach_side_network(build_base("bert", "SEQ_CLS")), draw_batch(None)
    types = torch.zeros_like(batch["input_ids"])
    zeros = compute_logits(adapted, {**batch, "token_type_ids": types})
    types[:, 4:] = 1
    assert torch.equal(compute_logits(adapted, batch), zeros)
    assert not torch.equal(compute_logits(adapted, {**batch, "token_type_ids": types}), zeros)


def test_tied_embeddings_stay_tied_and_frozen(build_base, attach_side_network, draw_batch):
    adapted, batch = attach_side_network(build_base("llama", tie_word_embeddings=True)).train(), draw_batch()
    plain = adapted.get_base_model()
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    adapted(**batch, labels=batch["input_ids"]).loss.backward()
    assert plain.lm_head.weight.grad is None


def test_a_disabled_forward_pass_keeps_no_states(build_base, attach_side_network, draw_batch):
    """The states of a whole batch would stay in memory until the next one."""
    adapted = attach_side_network(build_base("llama"))
    with adapted.disable_adapter():
        compute_logits(adapted, draw_batch())
    assert not adapted.base_model.mix.recorder.states
    assert not adapted.base_model.mix.recorder.calls
