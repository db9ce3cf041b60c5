"""The tokenizer's pad token, new tokens and chat template."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError
from utils.modeling.base_model import load_base_model
from utils.modeling.tokenizer import added_token_ids, load_tokenizer

REAL_TOKENIZERS = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "tokenizers"


@pytest.fixture
def load_made(tokenizer_of, make_checkpoint):
    """Return a function that loads a tokenizer built with the given special tokens."""

    def load(special=("<unk>", "<s>", "</s>"), values=None, **roles):
        made = tokenizer_of(special, **roles)
        folder = make_checkpoint("llama", tokenizer=made, vocab_size=len(made))
        return load_tokenizer(ModelSection(name_or_path=str(folder), **(values or {})))

    return load


@pytest.mark.parametrize(
    ("special", "roles", "chosen"),
    [
        (("<unk>", "<s>", "</s>", "<pad>"), {}, "<pad>"),
        (("<unk>", "<s>", "</s>", "[PAD]", "<|finetune_right_pad_id|>"), {}, "<|finetune_right_pad_id|>"),
        (("<unk>", "<s>", "</s>"), {}, "<unk>"),
        (("<unk>", "<s>", "</s>"), {"pad_token": "<s>"}, "<s>"),  # the checkpoint's own choice stands
        (("<unk>", "<s>", "</s>", "<pad>"), {"pad_token": "</s>"}, "<pad>"),  # its own, but equal to eos
        (("<unk>", "<|endoftext|>", "<|im_end|>"), {"bos_token": None, "eos_token": "<|im_end|>"}, "<unk>"),
    ],
)
def test_the_pad_token_has_no_other_meaning(load_made, caplog, special, roles, chosen):
    with caplog.at_level(logging.WARNING):
        tokenizer = load_made(special, **roles)
    assert tokenizer.pad_token == chosen
    assert tokenizer.pad_token_id == special.index(chosen)
    assert len(tokenizer) == len(special) + 40, "the vocabulary must not grow"
    assert "end-of-text" not in caplog.text


def test_pad_equal_to_eos_is_a_reported_last_resort(load_made, caplog):
    special = ("<|endoftext|>",)
    roles = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
    with caplog.at_level(logging.WARNING):
        tokenizer = load_made(special, **roles)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert "the pad token is the end-of-text token <|endoftext|>" in caplog.text


def test_pad_equal_to_eos_by_setting_is_reported_too(load_made, caplog):
    with caplog.at_level(logging.WARNING):
        assert load_made(values={"pad_token": "</s>"}).pad_token == "</s>"
    assert "the pad token is the end-of-text token" in caplog.text


def test_configured_pad_token(load_made):
    assert load_made(values={"pad_token": "<s>"}).pad_token == "<s>"
    assert load_made(values={"pad_token": "<new>", "extra_special_tokens": ["<new>"]}).pad_token_id == 43
    with pytest.raises(ModelError, match="<none> is not in the vocabulary"):
        load_made(values={"pad_token": "<none>"})


@pytest.mark.parametrize(
    ("name", "pad"), [("qwen2.5", "<|fim_pad|>"), ("gpt2", "<|endoftext|>"), ("bert-base-uncased", "[PAD]")]
)
def test_real_vocabularies(name, pad):
    if not (REAL_TOKENIZERS / name).is_dir():
        pytest.skip(f"{name} is missing in {REAL_TOKENIZERS}")
    tokenizer = load_tokenizer(ModelSection(name_or_path="unused"), source=str(REAL_TOKENIZERS / name))
    assert tokenizer.pad_token == pad


def test_new_tokens_are_atomic_saved_and_have_embeddings(make_checkpoint, tmp_path, caplog):
    folder = make_checkpoint("llama")
    values = {"extra_special_tokens": ["<tool>", "<s>", "<end>"]}  # <s> is known already
    section = ModelSection(name_or_path=str(folder), **values)
    tokenizer = load_tokenizer(section)
    assert tokenizer("w1 <tool> w2", add_special_tokens=False)["input_ids"] == [5, 44, 6]
    with caplog.at_level(logging.WARNING):
        model = load_base_model(section, tokenizer, None)
    assert "44 embedding rows: 2 new rows" in caplog.text
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == 46
    assert added_token_ids(tokenizer, model) == [44, 45]

    tokenizer.save_pretrained(tmp_path / "final_model")
    again = load_tokenizer(section, source=str(tmp_path / "final_model"))
    assert added_token_ids(again, model) == [44, 45]
    assert again.get_vocab() == tokenizer.get_vocab()


def test_padded_embeddings_never_shrink(make_checkpoint):
    section = ModelSection(name_or_path=str(make_checkpoint("llama", vocab_size=64)), extra_special_tokens=["<tool>"])
    tokenizer = load_tokenizer(section)
    model = load_base_model(section, tokenizer, None)
    assert model.get_input_embeddings().weight.shape[0] == 64
    assert added_token_ids(tokenizer, model) == [44]


def test_no_new_tokens(make_checkpoint):
    section = ModelSection(name_or_path=str(make_checkpoint("llama")))
    tokenizer = load_tokenizer(section)
    assert added_token_ids(tokenizer, load_base_model(section, tokenizer, None)) == []


def test_chatml(make_checkpoint, caplog):
    values = {"chat_template": "chatml", "extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    section = ModelSection(name_or_path=str(make_checkpoint("llama")), **values)
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(section)
    assert not caplog.records
    chat = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<|im_start|>user\nw1<|im_end|>\n<|im_start|>assistant\nw2<|im_end|>\n"
    asked = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(asked)
    assert asked.endswith("<|im_start|>assistant\n")


def test_chatml_without_its_tokens_is_reported(make_checkpoint, caplog):
    folder = make_checkpoint("llama")
    with caplog.at_level(logging.WARNING):
        load_tokenizer(ModelSection(name_or_path=str(folder), chat_template="chatml"))
    assert "does not know as tokens" in caplog.text


@pytest.mark.parametrize("bar", ["\uff5c", "|"])
def test_r1_template_keeps_reasoning_in_the_answer_and_opens_none(make_checkpoint, bar):
    tokens = [f"<{bar}User{bar}>", f"<{bar}Assistant{bar}>"]
    folder = str(make_checkpoint("llama"))
    tokenizer = load_tokenizer(ModelSection(name_or_path=folder, chat_template="r1", extra_special_tokens=tokens))
    chat = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "<think>\nw3\n</think>\n\nw2"}]
    asked = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert asked == f"{tokenizer.bos_token}{tokens[0]}w1{tokens[1]}"
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == asked + chat[1]["content"] + tokenizer.eos_token
    with pytest.raises(ModelError, match=r"r1 needs DeepSeek-R1's own tokens"):
        load_tokenizer(ModelSection(name_or_path=folder, chat_template="r1"))


def test_a_trl_template_is_selected_by_name(make_checkpoint):
    from trl.chat_template_utils import qwen3_training_chat_template

    section = ModelSection(name_or_path=str(make_checkpoint("llama")), chat_template="qwen3_training")
    assert load_tokenizer(section).chat_template == qwen3_training_chat_template


def test_template_from_a_file(make_checkpoint, tmp_path):
    (tmp_path / "t.jinja").write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    folder = make_checkpoint("llama")
    section = ModelSection(name_or_path=str(folder), chat_template=str(tmp_path / "t.jinja"))
    assert load_tokenizer(section).apply_chat_template([{"role": "u", "content": "x"}], tokenize=False) == "[x]"
    with pytest.raises(ModelError, match="cannot be read"):
        load_tokenizer(ModelSection(name_or_path=str(folder), chat_template="nowhere"))


def test_a_folder_without_tokenizer(make_checkpoint):
    folder = make_checkpoint("llama")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="holds no usable tokenizer"):
        load_tokenizer(ModelSection(name_or_path=str(folder)))


def test_a_non_numeric_length_is_rejected(make_checkpoint):
    folder = make_checkpoint("llama")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": "x"}))
    with pytest.raises(ModelError, match=r"model_max_length in tokenizer_config\.json is 'x', no number"):
        load_tokenizer(ModelSection(name_or_path=str(folder)))


def test_a_tokenizer_that_transformers_misreads_is_reported(make_checkpoint, tokenizer_of, caplog):
    with caplog.at_level(logging.WARNING):
        load_tokenizer(ModelSection(name_or_path=str(make_checkpoint("qwen2"))))
        load_tokenizer(ModelSection(name_or_path=str(make_checkpoint("llama"))))
    assert "tokenizes text differently" not in caplog.text
    with caplog.at_level(logging.WARNING):
        folder = make_checkpoint("qwen2", seed=1, tokenizer=tokenizer_of())
        load_tokenizer(ModelSection(name_or_path=str(folder)))
    assert "as Qwen2Tokenizer, which tokenizes text differently" in caplog.text


@pytest.mark.parametrize("kind", ["bert", "qwen2", "gpt2"])
def test_a_folder_without_a_tokenizer_is_refused(kind, tmp_path):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    with pytest.raises(ModelError, match="holds no tokenizer's vocabulary"):
        load_tokenizer(ModelSection(name_or_path=str(tmp_path)))
