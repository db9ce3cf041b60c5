"""Tiny random models of many families: configuration and tokenizer, saved together as a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DECODERS = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2", "opt")
ENCODERS = ("bert", "roberta", "distilbert", "albert", "deberta_v2", "modernbert")
TITLES = {
    "llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral", "gemma": "Gemma", "gpt2": "GPT-2",
    "opt": "OPT", "bert": "BERT", "roberta": "RoBERTa", "distilbert": "DistilBERT", "albert": "ALBERT",
    "deberta_v2": "DeBERTa-v3", "modernbert": "ModernBERT",
}  # fmt: skip
"""The families of the matrix, by the name of their configuration."""

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 4
"""Window of sliding attention, in tokens."""

_MIXED = ["sliding_attention", "sliding_attention", "full_attention"]
_OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"num_key_value_heads": 1}),
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 1}),
    "qwen3": ("Qwen3Config", {"num_key_value_heads": 1, "head_dim": 8}),
    "mistral": ("MistralConfig", {"num_key_value_heads": 1, "sliding_window": WINDOW}),
    "gemma": ("GemmaConfig", {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma3": (
        "Gemma3TextConfig",
        {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": WINDOW, "layer_types": _MIXED},
    ),
    "phi": ("PhiConfig", {"partial_rotary_factor": 0.5}),
    "gpt_neox": ("GPTNeoXConfig", {"rotary_pct": 0.25}),
    "cohere": ("CohereConfig", {"num_key_value_heads": 1}),
    "gpt2": ("GPT2Config", {}),
    "opt": ("OPTConfig", {"word_embed_proj_dim": 32}),
    "bert": ("BertConfig", {}),
    "roberta": ("RobertaConfig", {"max_position_embeddings": 70}),
    "distilbert": ("DistilBertConfig", {}),
    "albert": ("AlbertConfig", {"embedding_size": 16}),
    "deberta_v2": (
        "DebertaV2Config",
        {
            "relative_attention": True,
            "position_buckets": 8,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
        },
    ),  # like DeBERTa-v3
    "modernbert": ("ModernBertConfig", {"cls_token_id": 3, "sep_token_id": 4, "local_attention": 2 * WINDOW}),
}
_NAMES = {
    "gpt2": {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
             "max_position_embeddings": "n_positions", "intermediate_size": "n_inner"},
    "distilbert": {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
                   "intermediate_size": "hidden_dim"},
    "opt": {"intermediate_size": "ffn_dim"},
}  # fmt: skip
_SPECIAL = ("<pad>", "<s>", "</s>", "[CLS]", "[SEP]", "<unk>", "[MASK]")
_BYTES = ("qwen2", "qwen3")  # transformers rebuilds their tokenizers and accepts no other type


def build_family_config(family: str, **changes: Any) -> Any:
    """Build a family's configuration: three layers of width 32, overridden by keywords in their usual names."""
    import transformers

    kind, own = _OWN[family]
    names = _NAMES.get(family, {})
    keys = {names.get(name, name): value for name, value in {**SHAPE, **own, **changes}.items()}
    return getattr(transformers, kind)(**keys)


def build_family_tokenizer(family: str) -> Any:
    """Build a tokenizer: words `w0` to `w56` for most families, bytes for Qwen; encoders add [CLS] .. [SEP]."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if family in _BYTES:
        alphabet = (*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()))
        tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        words = (*_SPECIAL, *(f"w{index}" for index in range(SHAPE["vocab_size"] - len(_SPECIAL))))
        ids = {token: index for index, token in enumerate(words)}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if family in ENCODERS:
            roles |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
            marks = [(token, ids[token]) for token in ("[CLS]", "[SEP]")]
            template = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=None, special_tokens=marks)
            tokenizer.post_processor = template
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **roles)


def save_family_base(family: str, folder: Path) -> Path:
    """Save a family's random base, the same on every call, with its tokenizer.

    Its weights are large enough for a wrong row, position or layer to show in the logits.

    Args:
        family: A name of `TITLES`.
        folder: Output folder, created if missing.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    tokenizer = build_family_tokenizer(family)
    auto = AutoModelForCausalLM if family in DECODERS else AutoModel
    torch.manual_seed(7)
    model = auto.from_config(build_family_config(family, vocab_size=len(tokenizer), num_hidden_layers=2))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
