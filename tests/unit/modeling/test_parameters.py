"""Counting parameters, held against the known counts of real models."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from utils.modeling.parameters import count_parameters

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
    """28 layers of q, o (1536+1536) and k, v (1536+256) at r=8, plus the head; the model is 1,543,714,304."""
    from transformers import Qwen2Config

    counts = count_lora(Qwen2Config(**QWEN25_1_5B))
    assert counts.trainable == 28 * 8 * (2 * (1536 + 1536) + 2 * (1536 + 256)) + 2 * 1536 == 2_182_144
    assert counts.total == 1_543_714_304 + 2_182_144
    assert counts.trainable_percent == pytest.approx(0.14116, abs=1e-5)
    assert counts.trainable_percent_packed == counts.trainable_percent


def test_lora_on_a_config_from_disk():
    folder = REAL_CONFIGS / "Qwen2.5-1.5B-Instruct"
    if not (folder / "config.json").is_file():
        pytest.skip(f"no {folder}")
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
