"""Virtual tokens on a frozen model: their initialisation, the effect of padding, what is trained and saved."""

from __future__ import annotations

import pytest

from utils.core.errors import ConfigError, ModelError

METHODS = ("prefix-tuning", "prompt-tuning", "p-tuning")
DECODERS = ("llama", "qwen2", "gpt2")
ENCODERS = ("bert", "roberta", "distilbert", "deberta_v2", "modernbert")


def _cells():
    from utils.adapters.adapter import load_adapter

    for method in METHODS:
        limits = load_adapter(method).Config.LIMITS.model_types
        yield from ((method, family) for family in (*DECODERS, *ENCODERS) if family.replace("_", "-") not in limits)


@pytest.mark.parametrize(("method", "family"), _cells())
def test_training_and_reloading_keeps_everything(attach, train_a_few_steps, read_logits, tmp_path, method, family):
    attached = attach(family, method, num_virtual_tokens=4)
    before = read_logits(attached.model, attached.tokenizer)
    train_a_few_steps(attached)
    trained = read_logits(attached.model, attached.tokenizer)
    assert (trained - before).abs().max() > 1e-3
    attached.plugin.save(attached.model, tmp_path)
    reloaded = read_logits(attached.plugin.load(tmp_path, attached.load_base), attached.tokenizer)
    assert (reloaded - trained).abs().max() < 1e-6


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("method", METHODS)
def test_padding_does_not_change_a_decoders_output(
    attach, train_a_few_steps, read_logits, tmp_path, method, family, side
):
    attached = attach(family, method, num_virtual_tokens=4)
    attached.tokenizer.padding_side = side
    train_a_few_steps(attached)
    attached.plugin.save(attached.model, tmp_path)
    texts = ("good w1 w2 w3", "bad film", "a", "w1 w2 w3 w4 w5 w6 w7 w8 w9")
    for model in (attached.model, attached.plugin.load(tmp_path, attached.load_base)):
        together = read_logits(model, attached.tokenizer, texts)
        alone = [read_logits(model, attached.tokenizer, (text,))[0] for text in texts]
        difference = max((row - single).abs().max() for row, single in zip(together, alone, strict=True))
        assert difference < 1e-5 * max(1, together.abs().max())


@pytest.mark.parametrize("family", ["bert", "deberta_v2", "distilbert", "modernbert"])
def test_all_layers_of_the_new_head_are_trained(attach, family):
    """DistilBERT's pre_classifier, DeBERTa's pooler and ModernBERT's head have no pretrained weights."""
    from utils.adapters.adapter import head_modules

    model = attach(family, "p-tuning").model
    trained = {name for name, part in model.named_parameters() if part.requires_grad}
    for head in head_modules(model.get_base_model()):
        assert any(f"{head}." in name for name in trained), head
    others = [name for name in trained if "modules_to_save" not in name and "prompt_encoder" not in name]
    assert not others


def test_prompts_are_initialised_from_vocabulary_words(attach):
    model = attach("llama", "prompt-tuning", num_virtual_tokens=5).model
    words = model.get_input_embeddings().weight
    prompts = model.prompt_encoder["default"].embedding.weight
    assert all(any(bool((row == word).all()) for word in words) for row in prompts)


def test_prompts_are_initialised_from_a_text(attach):
    keys = {"num_virtual_tokens": 5, "prompt_init": "text", "prompt_text": "good film", "base_commit": "0" * 40}
    attached = attach("llama", "prompt-tuning", **keys)
    assert attached.model.active_peft_config.tokenizer_kwargs == {"revision": "0" * 40}, "the base's own state"
    ids = attached.tokenizer("good film")["input_ids"]
    words = attached.model.get_input_embeddings().weight[(ids * 3)[:5]]
    assert bool((attached.model.prompt_encoder["default"].embedding.weight == words).all())


def test_p_tuning_prompts_start_at_the_scale_of_word_embeddings(attach):
    import torch

    for keys in ({}, {"encoder_reparameterization_type": "LSTM", "encoder_num_layers": 1}):
        model = attach("llama", "p-tuning", **keys).model
        made = model.prompt_encoder["default"](torch.arange(20)[None])
        assert made.std().item() == pytest.approx(model.get_input_embeddings().weight.std().item(), rel=1e-3)


@pytest.mark.parametrize("projection", [False, True])
def test_a_prefix_starts_near_zero(attach, projection):
    model = attach("llama", "prefix-tuning", prefix_projection=projection, prefix_init_std=0.0).model
    assert model.get_prompt_embedding_to_save("default").abs().max() == 0
    small = attach("llama", "prefix-tuning", prefix_projection=projection).model
    assert 0 < small.get_prompt_embedding_to_save("default").abs().max() < 1


def test_a_model_without_prefix_support_is_refused(attach):
    with pytest.raises(ModelError, match="takes no keys and values from outside; use p-tuning"):
        attach("modernbert", "prefix-tuning")


@pytest.mark.parametrize("method", [*METHODS, "adalora", "ia3", "vera"])
def test_new_tokens_are_refused(attach, method):
    with pytest.raises(ConfigError, match="which trains no embeddings"):
        attach("llama", method, model={"extra_special_tokens": ["<new>"]}, num_training_steps=10)


@pytest.mark.parametrize(
    ("method", "keys", "sentence"),
    [
        ("prompt-tuning", {"prompt_init": "text"}, "missing"),
        ("prompt-tuning", {"prompt_text": "a"}, "has no effect with prompt_init: vocabulary"),
        ("prefix-tuning", {"encoder_hidden_size": 8}, "has no effect without prefix_projection"),
        ("p-tuning", {"encoder_dropout": 0.1}, "has no effect on the MLP"),
        ("ia3", {"target_modules": ["a"], "feedforward_modules": ["b"]}, "b is not among target_modules"),
    ],
)
def test_contradicting_keys_are_refused(method, keys, sentence):
    from utils.adapters.adapter import load_adapter

    [found] = load_adapter(method).Config(**keys).find_conflicts().values()
    assert sentence in found
