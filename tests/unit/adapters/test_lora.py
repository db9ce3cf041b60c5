"""LoRA on every family: which modules it adapts, what else is trained, and that saving keeps all of it."""

from __future__ import annotations

import pytest

from utils.core.errors import ModelError

# Default target modules, and fully trained modules; by hand from each architecture.
GOLDEN = {
    "llama": ({"q_proj", "v_proj"}, {"score"}),
    "qwen2": ({"q_proj", "v_proj"}, {"score"}),
    "gpt2": ({"c_attn"}, {"score"}),
    "bert": ({"query", "value"}, {"classifier", "bert.pooler.dense"}),
    "roberta": ({"query", "value"}, {"classifier"}),
    "distilbert": ({"q_lin", "v_lin"}, {"pre_classifier", "classifier"}),
    "albert": ({"query", "value"}, {"classifier"}),
    "deberta_v2": ({"query_proj", "value_proj"}, {"pooler", "classifier"}),
    "modernbert": ({"Wqkv"}, {"head", "classifier"}),
}
FAMILIES = tuple(GOLDEN)


def _lora_modules(model):
    return {name for name, module in model.named_modules() if hasattr(module, "lora_A")}


def _whole_modules(model):
    plain = model.get_base_model()
    return {name for name, module in plain.named_modules() if hasattr(module, "modules_to_save")}


@pytest.mark.parametrize("family", FAMILIES)
def test_default_targets(attach, family):
    targets, whole = GOLDEN[family]
    model = attach(family, "lora").model
    assert {name.rsplit(".", 1)[-1] for name in _lora_modules(model)} == targets
    assert _whole_modules(model) == whole - {"bert.pooler.dense"}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_never_wraps_the_head(attach, family):
    model = attach(family, "lora", target_modules="all-linear").model
    head = tuple(f"base_model.model.{name}" for name in _whole_modules(model))
    assert _lora_modules(model)
    assert not [name for name in _lora_modules(model) if name.startswith(head)]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_reloading_keeps_everything(attach, train_a_few_steps, read_logits, tmp_path, family):
    attached = attach(family, "lora", lora_dropout=0.1)
    before = read_logits(attached.model, attached.tokenizer)
    train_a_few_steps(attached)
    trained = read_logits(attached.model, attached.tokenizer)
    assert (trained - before).abs().max() > 1e-3
    attached.plugin.save(attached.model, tmp_path)
    reloaded = read_logits(attached.plugin.load(tmp_path, attached.load_base), attached.tokenizer)
    assert (reloaded - trained).abs().max() < 1e-6


@pytest.mark.parametrize(
    "keys",
    [
        {"use_dora": True},
        {"use_rslora": True, "lora_r": 16},
        {"bias": "lora_only"},
        {"bias": "all"},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"target_modules": "all-linear"},
        {"modules_to_save": ["word_embeddings"]},
        {"layers_to_transform": [1], "target_modules": ["query"]},
        {"rank_pattern": {"layer.0.attention.self.query": 2}, "alpha_pattern": {"value": 32}},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_variants_survive_saving(attach, train_a_few_steps, read_logits, tmp_path, keys):
    attached = attach("bert", "lora", **keys)
    train_a_few_steps(attached)
    trained = read_logits(attached.model, attached.tokenizer)
    attached.plugin.save(attached.model, tmp_path)
    reloaded = read_logits(attached.plugin.load(tmp_path, attached.load_base), attached.tokenizer)
    assert (reloaded - trained).abs().max() < 1e-6


def test_merging_gives_the_same_logits(attach, train_a_few_steps, read_logits, tmp_path):
    attached = attach("llama", "lora", use_dora=True)
    train_a_few_steps(attached)
    trained = read_logits(attached.model, attached.tokenizer)
    attached.plugin.save(attached.model, tmp_path)
    merged = attached.plugin.merge(attached.plugin.load(tmp_path, attached.load_base))
    assert not _lora_modules(merged)
    assert (read_logits(merged, attached.tokenizer) - trained).abs().max() < 1e-5


def test_rslora_scales_by_the_root_of_the_rank(attach):
    scaling = lambda model: {value for m in model.modules() if hasattr(m, "lora_A") for value in m.scaling.values()}
    assert scaling(attach("bert", "lora", lora_r=16, lora_alpha=8).model) == {8 / 16}
    assert scaling(attach("bert", "lora", lora_r=16, lora_alpha=8, use_rslora=True).model) == {8 / 4}


def test_rank_pattern_changes_single_modules(attach):
    model = attach("bert", "lora", lora_r=4, rank_pattern={"layer.1.attention.self.value": 2}).model
    ranks = {name: module.r["default"] for name, module in model.named_modules() if hasattr(module, "lora_A")}
    odd = [name for name, rank in ranks.items() if rank == 2]
    assert set(ranks.values()) == {2, 4}
    assert [name.endswith("layer.1.attention.self.value") for name in odd] == [True]


@pytest.mark.parametrize("excluded", [["value"], r".*\.value", ["self.value"], "key, value", r".*\.val[a-z]{1,2}"])
def test_excluded_modules_are_left_out(attach, excluded):
    model = attach("bert", "lora", exclude_modules=excluded).model
    assert {name.rsplit(".", 1)[-1] for name in _lora_modules(model)} == {"query"}


@pytest.mark.parametrize("written", [r".*layer\.\d{1,2}\..*\.(query|value)", "query ,value"])
def test_a_comma_within_an_expression_does_not_split_names(attach, written):
    model = attach("bert", "lora", target_modules=written).model
    assert {name.rsplit(".", 1)[-1] for name in _lora_modules(model)} == {"query", "value"}


def test_exclude_modules_keeps_the_head_unadapted(attach):
    model = attach("distilbert", "lora", target_modules="all-linear", exclude_modules=["ffn.lin1"]).model
    names = {name.rsplit(".", 1)[-1] for name in _lora_modules(model)}
    assert names == {"q_lin", "k_lin", "v_lin", "out_lin", "lin2"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"target_modules": ["q_proj"]}, "fits no layer .*bert.*its linear layers are .*query"),
        ({"target_modules": ["classifier"]}, "fits no layer"),
        ({"target_modules": ["query"], "exclude_modules": ["query"]}, "fits no layer"),
        ({"target_modules": ["LayerNorm"]}, "fits no layer"),
        ({"target_modules": "(query"}, "is not a regular expression"),
        ({"modules_to_save": ["embeddings"]}, "fits bert.embeddings and bert.embeddings.word_embeddings inside it"),
    ],
)
def test_target_modules_that_match_nothing_are_refused_in_one_sentence(attach, keys, message):
    with pytest.raises(ModelError, match=message) as caught:
        attach("bert", "lora", **keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "idle"),
    [
        ({"target_modules": ["query", "q_proj"]}, "target_modules: the model has no module q_proj"),
        ({"exclude_modules": ["nowhere"]}, "exclude_modules: the model has no module nowhere"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: the model has no module lm_head"),
        ({"rank_pattern": {"layer.7": 2}}, "rank_pattern: the model has no module layer.7"),
    ],
)
def test_names_without_effect_are_warned_about(attach, caplog, keys, idle):
    attach("bert", "lora", **keys)
    assert idle in caplog.text


def test_names_with_effect_are_not_warned_about(attach, caplog):
    attach("bert", "lora", target_modules=["query"], rank_pattern={r"layer\.0\..*query": 2})
    assert "no effect" not in caplog.text


def test_a_pooler_missing_from_the_checkpoint_is_trained(attach, train_a_few_steps, read_logits, tmp_path):
    """A BERT saved as a language model has no pooler: frozen, it would stay random."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    source = attach("bert", "none")
    folder = tmp_path / "mlm"
    AutoModelForMaskedLM.from_config(source.model.config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.model.config._name_or_path).save_pretrained(folder)
    attached = attach("bert", "lora", model={"name_or_path": str(folder)}, target_modules="all-linear")
    assert _whole_modules(attached.model) == {"classifier", "bert.pooler.dense"}
    assert not [name for name in _lora_modules(attached.model) if "pooler" in name]
    train_a_few_steps(attached)
    trained = read_logits(attached.model, attached.tokenizer)
    attached.plugin.save(attached.model, tmp_path / "adapter")
    again = attached.plugin.load(tmp_path / "adapter", attached.load_base)
    assert (read_logits(again, attached.tokenizer) - trained).abs().max() < 1e-6


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2"])
def test_new_tokens_are_trained_and_saved(attach, train_a_few_steps, read_logits, tmp_path, family):
    import torch

    attached = attach(family, "lora", model={"extra_special_tokens": ["<new>"]})
    token = attached.tokenizer.convert_tokens_to_ids("<new>")
    texts = ("good <new> w1", "<new>")
    with torch.no_grad():  # rows with the new token, so that its embedding gets a gradient
        before = read_logits(attached.model, attached.tokenizer, texts)
    embeddings = attached.model.get_input_embeddings()
    original = embeddings(torch.arange(token + 1)).detach().clone()
    optimizer = torch.optim.SGD([p for p in attached.model.parameters() if p.requires_grad], lr=10.0)
    batch = attached.tokenizer(list(texts), padding=True, return_tensors="pt")
    attached.model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    changed = (embeddings(torch.arange(token + 1)) - original).abs().amax(dim=-1)
    assert changed[token] > 0
    assert changed[:token].max() == 0
    trained = read_logits(attached.model, attached.tokenizer, texts)
    assert (trained - before).abs().max() > 1e-4
    attached.plugin.save(attached.model, tmp_path)
    reloaded = attached.plugin.load(tmp_path, attached.load_base)
    assert (read_logits(reloaded, attached.tokenizer, texts) - trained).abs().max() < 1e-6


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_base_trains_on_the_cpu(attach, train_a_few_steps, read_logits, tiny_base, tmp_path, quantization):
    model = {"name_or_path": str(tiny_base("llama", 64)), "quantization": quantization}
    attached = attach("llama", "lora", model=model)
    before = read_logits(attached.model, attached.tokenizer)
    train_a_few_steps(attached, steps=1)
    trained = read_logits(attached.model, attached.tokenizer)
    assert (trained - before).abs().max() > 1e-4
    attached.plugin.save(attached.model, tmp_path)
    reloaded = read_logits(attached.plugin.load(tmp_path, attached.load_base), attached.tokenizer)
    assert (reloaded - trained).abs().max() < 1e-3


def test_an_evaluation_does_not_stop_a_quantized_base_from_learning(attach, read_logits, tiny_base):
    """On a CPU with AVX-512, bitsandbytes re-packs 4-bit weights in eval mode; gradients then end there."""
    import torch

    model = {"name_or_path": str(tiny_base("llama", 64)), "quantization": "nf4"}
    attached = attach("llama", "lora", model=model, init_lora_weights=False)
    batch = attached.tokenizer(["good w1", "bad", "a"], padding=True, return_tensors="pt")

    def gradients():
        attached.model.train().zero_grad()
        attached.model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
        return {name: p.grad for name, p in attached.model.named_parameters() if p.requires_grad}

    before = gradients()
    read_logits(attached.model, attached.tokenizer)
    after = gradients()
    assert all(after[name] is not None for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_adapter_follows_the_seed(attach):
    import torch

    one, two = (attach("bert", "lora").model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_trained_parameters_are_float32_under_autocast(attach):
    import torch

    for method in ("lora", "head-only", "none"):
        model = attach("bert", method, model={"dtype": "bfloat16"}, mixed_precision=True).model
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}, method
    kept = attach("bert", "none", model={"dtype": "bfloat16"}).model
    assert {p.dtype for p in kept.parameters()} == {torch.bfloat16}


def test_target_modules_are_read_in_every_spelling():
    from pydantic import ValidationError

    from utils.adapters.lora import Config

    assert Config(target_modules="q_proj, v_proj").target_modules == ["q_proj", "v_proj"]
    assert Config(target_modules="all-linear").target_modules == "all-linear"
    for empty in ([], ""):
        with pytest.raises(ValidationError, match="is empty"):
            Config(target_modules=empty)


def test_the_parameter_count_of_qwen_1_5b():
    """r=8 on q, k, v, o of 28 layers: 8 * (2 * (1536 + 1536) + 2 * (1536 + 256)) each, and a head of 2 * 1536."""
    import torch
    from transformers import AutoModelForSequenceClassification, Qwen2Config

    from utils.adapters.adapter import AttachContext
    from utils.adapters.lora import Config, attach
    from utils.modeling.sizes import count_parameters

    config = Qwen2Config(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, tie_word_embeddings=True, num_labels=2,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
        adapted = attach(
            model, Config(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]), AttachContext("SEQ_CLS", True, 42)
        )
    assert count_parameters(adapted).trainable == 2_182_144


@pytest.mark.parametrize("method", ["lora", "adalora", "ia3"])
def test_layers_of_the_head_are_fully_trained_and_not_adapted(attach, method):
    more = {"adalora": {"num_training_steps": 10}, "ia3": {"feedforward_modules": ["dense"]}}
    attached = attach("roberta", method, target_modules=["dense"], **more.get(method, {}))
    adapted = [name for name, _ in attached.model.named_modules() if name.endswith(".base_layer")]
    assert adapted
    assert not [name for name in adapted if ".classifier." in name]
