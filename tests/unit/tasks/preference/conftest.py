"""Tiny language models with LoRA, and encoded preference rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset

VOCABULARY = 61


@pytest.fixture
def build_model() -> Callable[[], Any]:
    """Return a function that builds the same tiny Llama with LoRA each time."""

    def build() -> Any:
        from peft import LoraConfig, get_peft_model
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(4.0)
        lora = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, lora)

    return build


def draw_pairs(number: int) -> tuple[Dataset, Dataset]:
    """Draw preference pairs in our encoder's format, and the same pairs in TRL's."""
    draw = torch.Generator().manual_seed(3)

    def ids(most: int, least: int = 2) -> list[int]:
        length = int(torch.randint(least, most, (1,), generator=draw))
        return torch.randint(3, VOCABULARY, (length,), generator=draw).tolist()

    ours, theirs = [], []
    for _ in range(number):
        prompt, chosen, rejected = ids(9), [*ids(12), 2], [*ids(12), 2]
        masked = [-100] * len(prompt)
        ours.append({
            "input_ids": prompt + chosen, "labels": masked + chosen,
            "rejected_input_ids": prompt + rejected, "rejected_labels": masked + rejected,
            "length": len(prompt) + max(len(chosen), len(rejected)),
        })  # fmt: skip
        theirs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return Dataset.from_list(ours), Dataset.from_list(theirs)


def compute_gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    """Return the loss's gradients of all trained parameters, flattened into one vector."""
    model.zero_grad()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
