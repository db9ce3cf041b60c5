"""The model for comparing trainers: a Llama shape with random weights and LoRA, and its training arguments."""

from __future__ import annotations

from typing import Any


def build_small_llama(vocabulary: int) -> Any:
    """Build it in float32, the same each time: eight layers of width 320, LoRA of rank 16 on all linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=320, intermediate_size=864, num_hidden_layers=8,
        num_attention_heads=5, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(LlamaForCausalLM(config), lora)


def list_arguments(folder: str, batch: int) -> dict[str, Any]:
    """Return the arguments for all trainers: an epoch on the CPU in the rows' order, every step logged."""
    return {
        "output_dir": folder, "per_device_train_batch_size": batch, "num_train_epochs": 1, "logging_steps": 1,
        "learning_rate": 1e-4, "lr_scheduler_type": "constant", "use_cpu": True, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
    }  # fmt: skip
