"""Tiny random checkpoints of several architectures, each a real folder with a real tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = tuple(f"w{index}" for index in range(40))
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def build_tokenizer(special: tuple[str, ...] = SPECIAL, **roles):
    """Build a word tokenizer whose special tokens come first; the default has a <pad> that has no role."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", **roles}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def build_byte_tokenizer():
    """Build a byte-level tokenizer, the only kind that transformers loads for qwen2; its pad is its eos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(("<|endoftext|>", "<pad>", *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = dict.fromkeys(("eos_token", "pad_token"), "<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def build_config(kind: str, vocab_size: int = len(SPECIAL) + len(WORDS), **values):
    """Build the config of a two-layer model."""
    import transformers

    if kind == "gpt2":
        return transformers.GPT2Config(
            vocab_size=vocab_size,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=2,
        )
    if kind == "distilbert":
        return transformers.DistilBertConfig(
            vocab_size=vocab_size, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
        )
    classes = {
        "llama": transformers.LlamaConfig,
        "qwen2": transformers.Qwen2Config,
        "bert": transformers.BertConfig,
        "deberta": transformers.DebertaV2Config,
        "modernbert": transformers.ModernBertConfig,
    }
    extra = {"num_key_value_heads": 1} if kind in ("llama", "qwen2") else {}
    extra |= {"pad_token_id": 3} if kind == "modernbert" else {}
    return classes[kind](vocab_size=vocab_size, **SHAPE, **extra, **values)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Use one thread: tiny matrices gain nothing from more, and lose much on shared cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tokenizer_of() -> Callable[..., object]:
    """Return `build_tokenizer`."""
    return build_tokenizer


@pytest.fixture
def config_of() -> Callable[..., object]:
    """Return `build_config`."""
    return build_config


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a random base model of a kind with a tokenizer and returns its folder."""

    def make(kind: str, seed: int = 0, tokenizer=None, **values) -> Path:
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

        tokenizer = tokenizer or (build_byte_tokenizer() if kind == "qwen2" else build_tokenizer())
        values.setdefault("vocab_size", len(tokenizer))
        torch.manual_seed(seed)
        auto = AutoModelForCausalLM if kind in ("llama", "qwen2", "gpt2") else AutoModelForMaskedLM
        model = auto.from_config(build_config(kind, **values))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=0.3)  # large enough that a wrong position or layer shows in the logits
        folder = tmp_path / f"{kind}-{seed}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def load(make_checkpoint):
    """Return a function that makes a checkpoint (or takes a folder) and loads model and tokenizer."""
    from utils.config.sections.model import ModelSection
    from utils.modeling.base_model import load_base_model
    from utils.modeling.head import HeadSpec
    from utils.modeling.tokenizer import load_tokenizer

    def load_one(kind: str, num_labels: int | None = 3, seed: int | None = 42, **values):
        folder = values.pop("folder", None) or make_checkpoint(kind)
        sharded = values.pop("sharded", False)
        section = ModelSection(name_or_path=str(folder), **values)
        tokenizer = load_tokenizer(section)
        names = tuple(f"name{index}" for index in range(num_labels or 0))
        head = HeadSpec(num_labels, names, "single_label_classification") if num_labels else None
        return load_base_model(section, tokenizer, head, seed, sharded), tokenizer

    return load_one
