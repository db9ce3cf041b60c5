"""Small run files and sets of rows for unit tests."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from utils.config.yaml_text import dump_yaml

BASE: dict[str, Any] = {
    "task_type": "SEQ_CLS",
    "model": {"name_or_path": "bert-base-uncased"},
    "peft": {"method": "lora"},
    "dataset": {"name": "glue", "subset": "mrpc"},
    "training": {"output_dir": "out"},
}


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Return `write_run(training={"optim": "sgd"}, seed=3)`, which writes a run file; None drops a section."""

    def write(name: str = "run", bare: bool = False, **sections: Any) -> Path:
        settings = {} if bare else deepcopy(BASE)
        for key, value in sections.items():
            if value is None:
                settings.pop(key)
            elif isinstance(value, dict) and key in settings:
                settings[key] |= value
            else:
                settings[key] = value
        file = tmp_path / f"{name}.yaml"
        file.write_text(dump_yaml(settings), encoding="utf-8")
        return file

    return write


@pytest.fixture
def prepare(load_tokenizer_of: Callable[[str], Any]) -> Callable[..., Any]:
    """Return a function that prepares rows: `prepare(folder, num_labels=3)`."""

    def run(path: Path | str, family: str = "bert", seed: int = 42, **keys: Any) -> Any:
        from utils.data.classification import prepare_classification
        from utils.datasets.custom import Config, describe_classification

        section = Config(path=str(path), **{"max_length": 32, **keys})
        return prepare_classification(describe_classification(section), section, load_tokenizer_of(family), seed)

    return run


@pytest.fixture
def prepare_glue(load_tokenizer_of: Callable[[str], Any]) -> Callable[..., Any]:
    """Return a function that prepares a GLUE task from a folder of files."""

    def run(path: Path | str, subset: str, seed: int = 42, reorder: Any = None, **keys: Any) -> Any:
        from utils.data.classification import prepare_classification
        from utils.datasets.glue import Config, describe_classification

        section = Config(path=str(path), subset=subset, **keys)
        arguments = (describe_classification(section), section, load_tokenizer_of("bert"), seed)
        return prepare_classification(*arguments, **({"reorder": reorder} if reorder else {}))

    return run


CHAT_TOKENS = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|head|>", "<|end_head|>", "<|eot|>")
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|head|>' + m.role + '<|end_head|>\n\n' + m.content | trim }}"
        "{{ '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|end_head|>\n\n' }}{% endif %}"
    ),
    "llama2": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system turns here') }}"
        "{% elif m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "forgets_system": (
        "{% for m in messages if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "wants_ids": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{% set ids = [m.tool_call_id] if m.role == 'tool' else (m.tool_calls or []) | map(attribute='id') | list %}"
        "{% for id in ids if id is undefined or id | length != 9 %}{{ raise_exception('Nine letters!') }}{% endfor %}"
        "{% if m.role == 'tool' %}{{ ' for ' + m.tool_call_id }}{% endif %}"
        "{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "forgets": (
        "{% for m in messages if m.content != 'forget me' %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "thinking": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}"
        "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "phi3": (
        "{% for m in messages %}{{ '<|head|>' + m.role + '<|end_head|>' + m.content + '<|eot|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|head|>assistant<|end_head|>' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "alternating": (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate, the user first') }}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "tools": (
        "{% if tools %}{{ '<|im_start|>tools' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.thinking %}{{ '[' + m.thinking + ']' }}{% endif %}{{ m.content }}"
        "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "never_ends": (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    ),
    "opens_otherwise": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>' }}{% endif %}"
    ),
}


def build_text_tokenizer(template: str | None = None, bos: bool = False, eos: bool = True) -> Any:
    """Build a byte tokenizer with the special tokens of some chat templates.

    Args:
        template: Name of a chat template.
        bos: Whether it prepends <s>.
        eos: Whether it has an end-of-text token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate((*CHAT_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    roles = {"bos_token": "<s>", "pad_token": "<pad>", **({"eos_token": "</s>"} if eos else {})}
    built = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
    built.add_special_tokens({"extra_special_tokens": list(CHAT_TOKENS[3:])})
    built.chat_template = TEMPLATES[template] if template else None
    return built


def build_spaced_tokenizer() -> Any:
    """Build a character tokenizer that prepends a space to every text, as Llama-2's does."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    characters = [chr(code) for code in range(33, 127)]
    ids = {token: index for index, token in enumerate(("<s>", "</s>", "<pad>", "<unk>", "\u2581", "\n", *characters))}
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Replace("\u2581", " ")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


@pytest.fixture(scope="session")
def text_tokenizer() -> Callable[..., Any]:
    """Return `build_text_tokenizer`."""
    return build_text_tokenizer


@pytest.fixture(scope="session")
def chat_templates() -> dict[str, str]:
    """Return the chat templates by name."""
    return TEMPLATES


@pytest.fixture(scope="session")
def spaced_tokenizer() -> Any:
    """Return a tokenizer that prepends a space to every text."""
    return build_spaced_tokenizer()


@pytest.fixture
def make_encoder(text_tokenizer: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that builds an encoder over bytes: `make_encoder("chatml", max_length=40)`."""

    def make(template: str | None = None, max_length: int = 400, bos: bool = False, **keys: Any) -> Any:
        from utils.data.encoding import ExampleEncoder

        return ExampleEncoder(text_tokenizer(template, bos), max_length, **keys)

    return make


@pytest.fixture
def prepare_set(make_encoder: Callable[..., Any]) -> Callable[..., Any]:
    """Return `prepare_set("gsm8k", path, template="chatml", seed=1)`, which prepares a CAUSAL_LM dataset."""

    def run(
        room: str, path: Path | str, template: str | None = None, seed: int = 42, encoder: Any = None, **keys: Any
    ) -> Any:
        from utils.data.dataset import load_dataset_plugin
        from utils.data.instruction import prepare_instructions

        opened = load_dataset_plugin(room)
        section = opened.Config(path=str(path), **keys)
        encoder = encoder or make_encoder(
            template,
            as_chat=section.as_chat,
            truncation=section.truncation,
            split_long=section.split_long,
            escape_special=section.special_tokens_in_text == "escape",
        )
        return prepare_instructions(opened.describe_instructions(section), section, encoder, seed)

    return run


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Return `write_lines("a.jsonl", rows)`, which writes rows, or lines unchanged, to a file."""

    def write(name: str, rows: list[Any]) -> Path:
        import json

        file = tmp_path / name
        file.write_text(
            "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
        )
        return file

    return write
