"""Every LoRA initialisation on tiny models: its start, that it learns, and that it loads onto an unmodified base."""

from __future__ import annotations

import json

import pytest
import torch

from utils.adapters.lora.inits import INITS, rewrites_base
from utils.core.errors import ConfigError, ModelError

ON_PLAIN_BASES = tuple(name for name in INITS if name not in ("gaussian", "loftq"))
SMALL = {"lora_r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_rows": 16, "init_batch_size": 8}
# In this base K and V have 16 outputs, and lora_ga wants twice the rank.


def _lora_state(model):
    return {name: each for name, each in model.state_dict().items() if ".lora_" in name}


def _config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text("utf-8"))


@pytest.mark.parametrize("init", ON_PLAIN_BASES)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_each_init_starts_as_the_base_learns_and_loads_onto_an_unmodified_base(
    attach, train_a_few_steps, read_logits, tmp_path, family, init
):
    keys = {**SMALL, "target_modules": None} if family == "bert" or init == "eva" else SMALL
    attached = attach(family, "lora", init_lora_weights=init, **keys)
    base = read_logits(attached.load_base(None), attached.tokenizer)
    assert (read_logits(attached.model, attached.tokenizer) - base).abs().max() < 1e-4
    train_a_few_steps(attached, steps=2)
    trained = read_logits(attached.model, attached.tokenizer)
    assert (trained - base).abs().max() > 1e-3
    attached.plugin.save(attached.model, tmp_path)
    saved = _config_of(tmp_path)
    assert saved["init_lora_weights"] is True
    assert saved["r"] == (8 if rewrites_base(init) else 4)
    assert saved["eva_config"] is saved["corda_config"] is saved["lora_ga_config"] is None
    reloaded = attached.plugin.load(tmp_path, attached.load_base)
    assert (read_logits(reloaded, attached.tokenizer) - trained).abs().max() < 1e-4
    assert (read_logits(attached.plugin.merge(reloaded), attached.tokenizer) - trained).abs().max() < 1e-4
    assert attached.model.peft_config["default"].init_lora_weights == init, "saving leaves the trained model alone"


@pytest.mark.parametrize("family", ["qwen2", "roberta", "distilbert", "albert", "deberta_v2", "modernbert"])
@pytest.mark.parametrize("init", ["pissa", "lora_ga"])
def test_init_on_other_model_families(attach, train_a_few_steps, read_logits, tmp_path, family, init):
    keys = {**SMALL, "target_modules": None}
    attached = attach(family, "lora", init_lora_weights=init, **keys)
    train_a_few_steps(attached, steps=2)
    trained = read_logits(attached.model, attached.tokenizer)
    attached.plugin.save(attached.model, tmp_path)
    reloaded = attached.plugin.load(tmp_path, attached.load_base)
    assert (read_logits(reloaded, attached.tokenizer) - trained).abs().max() < 1e-4


def test_eva_initialises_a_pooler_given_enough_rows(attach):
    keys = {**SMALL, "target_modules": "all-linear", "init_lora_weights": "eva"}
    model = attach("bert", "lora", **keys).model
    assert any("pooler" in name for name, module in model.named_modules() if hasattr(module, "lora_A"))


@pytest.mark.parametrize("init", ["pissa", "corda", "lora_ga", "eva", "mica", "orthogonal"])
def test_transposed_weights(attach, train_a_few_steps, read_logits, tmp_path, init):
    """GPT-2 stores its weights with the inputs first."""
    attached = attach("gpt2", "lora", init_lora_weights=init, **{**SMALL, "target_modules": ["c_attn", "c_proj"]})
    base = read_logits(attached.load_base(None), attached.tokenizer)
    assert (read_logits(attached.model, attached.tokenizer) - base).abs().max() < 1e-4
    train_a_few_steps(attached, steps=2)
    trained = read_logits(attached.model, attached.tokenizer)
    attached.plugin.save(attached.model, tmp_path)
    reloaded = attached.plugin.load(tmp_path, attached.load_base)
    assert (read_logits(reloaded, attached.tokenizer) - trained).abs().max() < 1e-4


@pytest.mark.parametrize("init", ["pissa", "olora", "corda", "lora_ga"])
@pytest.mark.parametrize(
    "keys",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"o_proj": 12}},
        {"bias": "all"},
        {"lora_dropout": 0.2},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_lora_variants_with_inits_that_rewrite_the_base_are_exact(
    attach, train_a_few_steps, read_logits, tmp_path, init, keys
):
    attached = attach("llama", "lora", init_lora_weights=init, **{**SMALL, **keys})
    train_a_few_steps(attached, steps=2)
    trained = read_logits(attached.model, attached.tokenizer)
    attached.plugin.save(attached.model, tmp_path)
    reloaded = attached.plugin.load(tmp_path, attached.load_base)
    assert (read_logits(reloaded, attached.tokenizer) - trained).abs().max() < 1e-4


def test_unconverted_matrices_do_not_fit_the_unmodified_base(attach):
    """The premise: without the conversion, the saved matrices belong to a different base."""
    attached = attach("llama", "lora", init_lora_weights="pissa", **SMALL)
    name = "model.layers.0.self_attn.q_proj"
    rewritten = attached.model.get_submodule(f"base_model.model.{name}").get_base_layer().weight
    untouched = attached.load_base(None).get_submodule(name).weight
    values = torch.linalg.svdvals(untouched.double())
    assert torch.linalg.matrix_norm(untouched - rewritten, 2).item() == pytest.approx(values[0].item(), rel=1e-4)
    assert torch.linalg.matrix_norm(rewritten, 2).item() == pytest.approx(values[4].item(), rel=1e-4)


def test_a_checkpoint_restores_the_initialisation_it_was_trained_from(attach, train_a_few_steps, read_logits, tmp_path):
    """Another machine's random SVD differs; the base is then set to the checkpoint's."""
    one = attach("llama", "lora", init_lora_weights="pissa_niter_1", **SMALL)
    train_a_few_steps(one)
    trained, state = read_logits(one.model, one.tokenizer), _lora_state(one.model)
    one.model.save_pretrained(tmp_path)
    other = attach("llama", "lora", init_lora_weights="olora", **SMALL)
    other.model.load_adapter(str(tmp_path), "default", is_trainable=True)
    assert all(torch.equal(each, state[name]) for name, each in _lora_state(other.model).items())
    assert (read_logits(other.model, other.tokenizer) - trained).abs().max() < 1e-4
    other.model.save_pretrained(tmp_path / "again")
    again = other.plugin.load(tmp_path / "again", other.load_base)
    assert (read_logits(again, other.tokenizer) - trained).abs().max() < 1e-4


@pytest.mark.parametrize("init", ["eva", "corda", "lora_ga", "pissa_niter_2", "orthogonal"])
def test_initialisation_follows_the_seed(attach, init):
    keys = {**SMALL, "target_modules": ["k_proj", "o_proj"], "init_lora_weights": init}
    one, two = (_lora_state(attach("llama", "lora", **keys).model) for _ in range(2))
    assert one
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_eva_uses_the_principal_components_of_the_inputs(attach, read_logits):
    """Compared with an SVD of one layer's inputs, collected by a hook of this test."""
    keys = {**SMALL, "target_modules": ["q_proj"], "layers_to_transform": [0], "init_batch_size": 64, "eva_rho": 1.0}
    attached = attach("llama", "lora", init_lora_weights="eva", **keys)
    layer = attached.model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    base, inputs = attached.load_base(None).eval(), []
    base.get_submodule("model.layers.0.self_attn.q_proj").register_forward_hook(
        lambda module, args, output: inputs.append(args[0])
    )
    (batch,) = attached.batches(16, 16)
    with torch.no_grad():
        base(**{key: each for key, each in batch.items() if key != "labels"})
    tokens = inputs[0][batch["attention_mask"].bool()]
    _, _, right = torch.linalg.svd(tokens - tokens.mean(0), full_matrices=False)
    overlap = torch.linalg.svdvals(layer.lora_A["default"].weight.detach() @ right[:4].T)
    assert overlap.min() > 0.98, "the same subspace"
    assert layer.lora_B["default"].weight.abs().max() == 0


def test_eva_moves_ranks_to_layers_whose_inputs_vary(attach):
    ranks = lambda model: [m.r["default"] for m in model.modules() if hasattr(m, "lora_A")]
    keys = {**SMALL, "lora_r": 2, "init_lora_weights": "eva"}
    alike = ranks(attach("llama", "lora", eva_rho=1.0, **keys).model)
    moved = ranks(attach("llama", "lora", eva_rho=2.0, **keys).model)
    assert set(alike) == {2}
    assert len(set(moved)) > 1
    assert max(moved) <= 4
    assert sum(moved) == sum(alike)


def test_lora_ga_starts_from_the_gradient(attach):
    """A spans the gradient's first right singular vectors."""
    keys = {**SMALL, "target_modules": ["q_proj"], "layers_to_transform": [1], "init_batch_size": 16}
    attached = attach("llama", "lora", init_lora_weights="lora_ga", **keys)
    layer = attached.model.get_submodule("base_model.model.model.layers.1.self_attn.q_proj")
    base = attached.load_base(None).train()
    (batch,) = attached.batches(16, 16)
    base(**batch).loss.backward()
    _, _, right = torch.linalg.svd(base.get_submodule("model.layers.1.self_attn.q_proj").weight.grad)
    assert torch.linalg.svdvals(layer.lora_A["default"].weight.detach() @ right[:4].T).min() > 0.99


def test_corda_kpm_and_ipm_start_from_opposite_components(attach):
    """kpm starts from the smallest, ipm from the largest components of the weight times the inputs' covariance."""
    size = {}
    for method in ("ipm", "kpm"):
        attached = attach("llama", "lora", init_lora_weights="corda", corda_method=method, **SMALL)
        layer = attached.model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
        size[method] = layer.get_delta_weight("default").norm()
    assert size["kpm"] < 0.5 * size["ipm"]


def test_mica_trains_only_a(attach):
    attached = attach("llama", "lora", init_lora_weights="mica", **SMALL)
    trained = {name for name, p in attached.model.named_parameters() if p.requires_grad and "lora_" in name}
    assert trained
    assert all(".lora_A." in name for name in trained)


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        ("gpt2", {"init_lora_weights": "olora", "target_modules": ["c_attn"]}, "olora does not fit .*c_attn.*pissa"),
        ("llama", {"init_lora_weights": "pissa", "lora_r": 33}, "takes 33 directions .* has 32; set it to 32 or less"),
        ("llama", {"init_lora_weights": "lora_ga", "lora_r": 17}, "takes 34 directions"),
        ("llama", {"init_lora_weights": "eva", "lora_r": 17}, "takes 34 directions .* set it to 16 or less"),
        ("llama", {"init_lora_weights": "eva", "lora_r": 16, "init_rows": 1}, "fewer than the 32 tokens that eva"),
        ("bert", {"init_lora_weights": "eva", "target_modules": ["dense"], "lora_r": 8}, "init_batch_size: 16"),
        ("llama", {"init_lora_weights": "loftq"}, "set model.quantization: nf4"),
        ("bert", {"init_lora_weights": "corda", "target_modules": "all-linear"}, "as a pooler does; leave it out by"),
        ("bert", {"init_lora_weights": "pissa", "target_modules": ["q_proj"]}, "fits no linear layer whose weights"),
    ],
)
def test_unsupported_combinations_are_refused_in_one_sentence(attach, family, keys, message):
    with pytest.raises((ConfigError, ModelError), match=message) as caught:
        attach(family, "lora", **{**SMALL, "target_modules": ["q_proj"], **keys})
    assert "\n" not in str(caught.value)


def test_a_shared_weight_is_not_rewritten(attach, quickstart_base):
    keys = {**SMALL, "target_modules": ["lm_head"], "model": {"name_or_path": quickstart_base}, "num_labels": None}
    with pytest.raises(ModelError, match="lm_head shares its weight with another module"):
        attach("llama", "lora", init_lora_weights="pissa", **keys)
    attach("llama", "lora", init_lora_weights="eva", **keys)


def test_data_driven_inits_are_refused_without_rows(attach):
    with pytest.raises(ConfigError, match="corda looks at training rows, and there are none"):
        attach("llama", "lora", init_lora_weights="corda", training_batches=None, **SMALL)


def test_new_tokens_are_trained_with_a_custom_init(attach, train_a_few_steps, read_logits, tmp_path):
    attached = attach("llama", "lora", init_lora_weights="pissa", model={"extra_special_tokens": ["<new>"]}, **SMALL)
    train_a_few_steps(attached)
    texts = ("good <new> w1", "<new>")
    trained = read_logits(attached.model, attached.tokenizer, texts)
    attached.plugin.save(attached.model, tmp_path)
    reloaded = attached.plugin.load(tmp_path, attached.load_base)
    assert (read_logits(reloaded, attached.tokenizer, texts) - trained).abs().max() < 1e-4


@pytest.mark.parametrize("init", ["eva", "loftq"])
def test_inits_on_a_quantized_base(attach, train_a_few_steps, read_logits, tiny_base, tmp_path, init):
    model = {"name_or_path": str(tiny_base("llama", 64)), "quantization": "nf4"}
    keys = {**SMALL, "target_modules": ["q_proj", "down_proj"]}
    attached = attach("llama", "lora", model=model, init_lora_weights=init, **keys)
    train_a_few_steps(attached, steps=1)
    trained = read_logits(attached.model, attached.tokenizer)
    attached.plugin.save(attached.model, tmp_path)
    assert _config_of(tmp_path)["init_lora_weights"] is True
    assert _config_of(tmp_path)["r"] == 4
    assert {p.dtype for p in attached.model.parameters() if p.requires_grad} == {torch.float32}
    reloaded = attached.plugin.load(tmp_path, attached.load_base)
    assert (read_logits(reloaded, attached.tokenizer) - trained).abs().max() < 1e-3


def test_loftq_reduces_the_quantization_error(attach, tiny_base):
    from peft.utils.integrations import dequantize_module_weight

    name = "model.layers.0.mlp.up_proj"
    folder = str(tiny_base("llama", 64))
    attached = attach("llama", "lora", model={"name_or_path": folder, "quantization": "nf4"},
                      init_lora_weights="loftq", **SMALL)  # fmt: skip
    layer = attached.model.get_submodule(f"base_model.model.{name}")
    own = attach("llama", "none", model={"name_or_path": folder}).model.get_submodule(name).weight.detach()
    packed = dequantize_module_weight(layer.get_base_layer()).float()
    values = torch.linalg.svdvals(own - packed)
    left = torch.linalg.matrix_norm(own - packed - layer.get_delta_weight("default"))
    assert left.item() == pytest.approx(values[4:].square().sum().sqrt().item(), rel=1e-3), "the best of rank 4"


def test_loftq_with_int8_is_refused(make_config):
    with pytest.raises(ConfigError, match="loftq starts from the error of a 4-bit base"):
        make_config(peft={"method": "lora", "init_lora_weights": "loftq"}, model__quantization="int8")


def test_settings_of_another_init_are_not_warned_about_twice(attach, caplog):
    """The configuration's check has already warned."""
    attach("bert", "lora", init_lora_weights="pissa", lora_r=4, eva_rho=1.5)
    assert "no effect" not in caplog.text
