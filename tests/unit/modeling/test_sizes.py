"""Sizes: positions counted, extended and compared with a length; parameter counts of known models."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from utils.config.sections.model import ModelSection, RopeScalingSection
from utils.core.errors import ModelError
from utils.modeling.base_model import load_base_model
from utils.modeling.sizes import count_layers, count_parameters, count_positions, has_position_table, length_problem
from utils.modeling.tokenizer import load_tokenizer

QWEN = {"model_type": "qwen2", "max_position_embeddings": 32768, "rope_theta": 1e6}
SCALINGS = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0},
    {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
]


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2", "opt", "albert", "xlm-roberta"])
def test_a_position_table_holds_exactly_the_counted_tokens(kind):
    import transformers

    names = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "gpt2": "GPT2", "opt": "OPT",
             "albert": "Albert", "xlm-roberta": "XLMRoberta"}  # fmt: skip
    name = names[kind]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    shapes = {
        "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
        "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 20},
        "opt": {**sizes, "ffn_dim": 16, "word_embed_proj_dim": 16, "pad_token_id": 1},
        "albert": {**sizes, "embedding_size": 8},
    }
    shape = shapes.get(kind, sizes)
    if kind != "gpt2":
        shape = {**shape, "max_position_embeddings": 20}
    config = getattr(transformers, f"{name}Config")(vocab_size=30, **shape)
    model = getattr(transformers, f"{name}Model")(config)
    positions = count_positions(config.to_dict())
    assert positions is not None
    assert has_position_table(config.to_dict())
    model(torch.full((1, positions), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, positions + 1), 5))


ODD = [["a", "a"], {"a": 1}, "x", "", None, True, [], {}, -1, 1e300, float("inf"), float("nan")]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_invalid_values_of_a_damaged_config_are_ignored(odd):
    rope = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 16}
    base = {"model_type": "roberta", "max_position_embeddings": 34, "pad_token_id": 1, "num_hidden_layers": 2}
    yarn = RopeScalingSection(rope_type="yarn", factor=2)
    cases = [{**base, key: odd} for key in [*base, "text_config", "rope_scaling"]]
    cases += [{**base, "rope_scaling": {**rope, key: odd}} for key in rope]
    for config in cases:
        for scaling in (None, yarn):
            positions = count_positions(config, scaling)
            assert positions is None or isinstance(positions, int)
        assert count_layers(config) in (2, None, -1)
        has_position_table(config)
    if odd != -1:
        assert count_positions({**base, "pad_token_id": odd}) == 32
        assert count_positions({**base, "text_config": odd}) == (32 if odd != {"a": 1} else None)


def test_positions_of_rotary_models():
    assert count_positions(QWEN) == 32768
    assert count_positions({"model_type": "gemma3", "text_config": QWEN}) == 32768
    assert count_positions({"model_type": "bloom"}) is None
    assert count_positions({**QWEN, "rope_scaling": {"type": "dynamic", "factor": 2.0}}) == 65536
    assert count_positions(QWEN, RopeScalingSection(rope_type="yarn", factor=4)) == 131072
    assert not has_position_table(QWEN)


def test_too_long_rows_are_refused_with_a_remedy():
    assert length_problem(QWEN, None, 32768) is None
    assert "rope_scaling: {rope_type: yarn, factor: 3}" in str(length_problem(QWEN, None, 70000))
    assert "raise its factor" in str(length_problem(QWEN, RopeScalingSection(rope_type="linear", factor=2), 70000))
    bert = {"model_type": "bert", "max_position_embeddings": 512}
    assert length_problem(bert, None, 513) == (
        "513 tokens are more than the model has positions for (512); use 512 at most"
    )


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda each: each["rope_type"])
def test_rope_scaling_equals_a_model_with_that_config(make_checkpoint, scaling):
    import json

    folder = make_checkpoint("llama")
    section = ModelSection(name_or_path=str(folder), rope_scaling=scaling)
    model = load_base_model(section, load_tokenizer(section), None, 0)
    assert model.config.max_position_embeddings == 256
    assert count_positions(model.config.to_dict()) == 256
    plain = load_base_model(ModelSection(name_or_path=str(folder)), load_tokenizer(section), None, 0)
    written = json.loads((folder / "config.json").read_text())
    written["rope_parameters"] = {**written["rope_parameters"], **scaling}
    if scaling["rope_type"] != "linear":
        written["rope_parameters"]["original_max_position_embeddings"] = 64
    written["max_position_embeddings"] = 256
    (folder / "config.json").write_text(json.dumps(written))
    described = load_base_model(ModelSection(name_or_path=str(folder)), load_tokenizer(section), None, 0)
    ids = torch.arange(4, 44).repeat(5)[None]
    with torch.no_grad():
        answers = [each.eval()(ids).logits for each in (model, described, plain)]
    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2], atol=1e-5)


def test_dynamic_scaling_does_not_change_short_rows(make_checkpoint):
    folder = make_checkpoint("llama")
    scaled = ModelSection(name_or_path=str(folder), rope_scaling={"type": "dynamic", "factor": 4.0})
    models = [
        load_base_model(each, load_tokenizer(each), None, 0).eval()
        for each in (scaled, ModelSection(name_or_path=str(folder)))
    ]
    assert count_positions(models[0].config.to_dict()) == 256
    for length, same in ((40, True), (200, False)):
        ids = torch.arange(4, 44).repeat(5)[None, :length]
        with torch.no_grad():
            one, other = (each(ids).logits for each in models)
        assert torch.equal(one, other) is same


def test_scaling_without_rotary_positions_is_refused(make_checkpoint):
    section = ModelSection(name_or_path=str(make_checkpoint("gpt2")), rope_scaling={"rope_type": "yarn", "factor": 2})
    with pytest.raises(ModelError, match=r"rope_scaling: .* \(gpt2\) has no rotary positions"):
        load_base_model(section, load_tokenizer(section), None, 0)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"rope_type": "llama3", "factor": 2}, "needs low_freq_factor"), ({"rope_type": "yarn", "factor": 1}, "than 1")],
)
def test_incomplete_scaling_is_refused(given, words):
    with pytest.raises(ValidationError, match=words):
        RopeScalingSection(**given)


REAL_CONFIGS = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "model_configs"
QWEN25_1_5B = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def count_lora(config):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    config.num_labels = 2
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
        lora = LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
        return count_parameters(get_peft_model(model, lora))


def test_lora_on_qwen_2_5_1_5b():
    """28 layers of q, o (1536+1536) and k, v (1536+256) at r=8, plus the head; the model has 1,543,714,304."""
    from transformers import Qwen2Config

    counts = count_lora(Qwen2Config(**QWEN25_1_5B))
    assert counts.trainable == 28 * 8 * (2 * (1536 + 1536) + 2 * (1536 + 256)) + 2 * 1536 == 2_182_144
    assert counts.total == 1_543_714_304 + 2_182_144
    assert counts.trainable_percent == pytest.approx(0.14116, abs=1e-5)
    assert counts.trainable_percent_packed == counts.trainable_percent


def test_lora_on_a_config_from_disk():
    folder = REAL_CONFIGS / "Qwen2.5-1.5B-Instruct"
    if not (folder / "config.json").is_file():
        pytest.skip(f"{folder} is missing")
    from transformers import Qwen2Config

    assert count_lora(Qwen2Config(**json.loads((folder / "config.json").read_text()))).trainable == 2_182_144


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_count_once(config_of, tied):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config_of("llama", tie_word_embeddings=tied))
    embedding = 44 * 32
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32
    assert count_parameters(model).total == embedding * (1 if tied else 2) + 2 * layer + 32


def test_nothing_trainable():
    layer = torch.nn.Linear(3, 4).requires_grad_(False)
    counts = count_parameters(layer)
    assert (counts.trainable, counts.total, counts.trainable_percent) == (0, 16, 0.0)
