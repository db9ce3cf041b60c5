"""Cases of perf/gpu.py: model shapes with random weights, rows of random tokens, and the trainers to compare."""

from __future__ import annotations

import tempfile
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
                     "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
                     "tie_word_embeddings": True},
    "llama-3.2-3b": {"model_type": "llama", "vocab_size": 128256, "hidden_size": 3072, "intermediate_size": 8192,
                     "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128,
                     "tie_word_embeddings": True},
    "qwen2.5-1.5b": {"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960,
                     "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
                     "tie_word_embeddings": True},
    "qwen2.5-7b": {"model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
                   "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
                   "tie_word_embeddings": False},
    "pair": {"model_type": "llama", "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 4096,
             "num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "small": {"model_type": "llama", "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
}  # fmt: skip


def make_rows(case: dict[str, Any]) -> tuple[Any, int]:
    """Draw rows of a quarter of the length up to all of it, a third of each prompt; return the rows of a step."""
    import torch
    from datasets import Dataset

    draw = torch.Generator().manual_seed(0)
    length, vocabulary = case["length"], SHAPES[case["shape"]]["vocab_size"]
    batch = max(1, case["tokens"] // length)
    rows = []
    for _ in range(batch * case["steps"]):
        size = int(torch.randint(max(length // 4, 4), length + 1, (), generator=draw))
        ids = torch.randint(1, vocabulary, (size,), generator=draw).tolist()
        prompt = size // 3
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return Dataset.from_list(rows), batch


def _build_model(case: dict[str, Any]) -> Any:
    """Build the base with random weights in bfloat16, quantized for qlora, and attach the method as train.py does."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    from utils.adapters.adapter import AttachContext, load_adapter

    torch.manual_seed(0)
    shape = {key: value for key, value in SHAPES[case["shape"]].items() if key != "model_type"}
    config = AutoConfig.for_model(SHAPES[case["shape"]]["model_type"], **shape, max_position_embeddings=32768)
    with torch.device(case["device"]):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if case["method"] == "qlora":
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                quantization_config=settings,
                dtype=torch.bfloat16,
                device_map={"": case["device"]},
                trust_remote_code=False,
            )
    method = {"qlora": "lora", "dpo": "lora", "full": "none"}.get(case["method"], case["method"])
    section = {"method": method} | ({"lora_r": 16, "target_modules": "all-linear"} if method == "lora" else {})
    plugin = load_adapter(method)
    context = AttachContext(
        task_type="CAUSAL_LM", has_new_head=False, seed=0, num_training_steps=case["steps"], num_epochs=1.0,
        device=case["device"], mixed_precision=True,
    )  # fmt: skip
    return plugin.attach(model, plugin.Config(**section), context)


def build_trainer(case: dict[str, Any], rows: Any, batch: int, folder: str) -> Any:
    """Build the trainer of a case for its model and batch size."""
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from utils.adapters.lora.fused_layer import fuse_lora_layers
    from utils.tasks.sft.building import pack_rows
    from utils.tasks.sft.trainer import CausalTrainer
    from utils.trainer.varlen_attention import require_separate_documents

    kind, method = case["kind"], case["method"]
    model = _build_model(case)
    if kind == "packed":
        packed = pack_rows(rows, case["length"])
        batch, rows = max(1, round(batch * len(packed) / len(rows))), packed
    shared = {
        "output_dir": folder, "per_device_train_batch_size": batch, "num_train_epochs": 1, "logging_steps": 1,
        "learning_rate": 1e-5, "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "train_sampling_strategy": "sequential", "bf16": True, "gradient_checkpointing": False,
        "use_cpu": case["device"] == "cpu",
    }  # fmt: skip
    if method == "dpo":
        trainer: Any = _build_dpo(case, model, rows, shared)
    elif kind == "plain":
        collate: Any = DataCollatorForSeq2Seq(_tokenizer(case))
        trainer = Trainer(model, TrainingArguments(**shared), collate, rows)
    else:
        flattened = kind in ("ours", "packed")
        if flattened:
            require_separate_documents(model)
            fuse_lora_layers(model)
        collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=flattened)
        own = {
            "max_length": None,
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "use_liger_kernel": kind == "liger",
        }
        trainer = (CausalTrainer if flattened else SFTTrainer)(
            model=model, args=SFTConfig(**shared, **own), data_collator=collate, train_dataset=rows,
            processing_class=_tokenizer(case),
        )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def _build_dpo(case: dict[str, Any], model: Any, rows: Any, shared: dict[str, Any]) -> Any:
    """Make pairs whose rejected answer is the chosen one reversed."""
    from datasets import Dataset
    from transformers import TrainingArguments
    from trl import DPOConfig, DPOTrainer

    from utils.adapters.lora.fused_layer import fuse_lora_layers
    from utils.tasks.dpo.section import DpoSection
    from utils.tasks.dpo.trainer import DpoTrainer
    from utils.tasks.preference.batches import PreferenceCollator
    from utils.trainer.varlen_attention import require_separate_documents

    split = [(row["input_ids"][: len(row["input_ids"]) // 3], row["input_ids"][len(row["input_ids"]) // 3 :])
             for row in rows]  # fmt: skip
    if case["kind"] != "ours":
        pairs = [{"prompt_ids": p, "chosen_ids": a, "rejected_ids": a[::-1]} for p, a in split]
        DPOTrainer._prepare_dataset = lambda self, given, *_: given  # they are encoded
        arguments = DPOConfig(**shared, max_length=None, use_liger_kernel=case["kind"] == "liger")
        return DPOTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(pairs), processing_class=_tokenizer(case)
        )
    require_separate_documents(model)
    fuse_lora_layers(model)
    pairs = []
    for prompt, answer in split:
        masked, other = [-100] * len(prompt), answer[::-1]
        pairs.append({"input_ids": prompt + answer, "labels": masked + answer,
                      "rejected_input_ids": prompt + other, "rejected_labels": masked + other})  # fmt: skip
    return DpoTrainer(
        model=model,
        section=DpoSection(),
        args=TrainingArguments(**shared),
        train_dataset=Dataset.from_list(pairs),
        data_collator=PreferenceCollator(0, padding_free=True),
    )


def _tokenizer(case: dict[str, Any]) -> Any:
    """Make a tokenizer for trainers that require one; it encodes nothing here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"<{index}>": index for index in range(SHAPES[case["shape"]]["vocab_size"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<0>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<0>", eos_token="<0>", unk_token="<0>")
