"""Loads the tokenizer with a pad token of its own, the run's chat template and added tokens."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError
from utils.modeling.hub_errors import explain_loading
from utils.modeling.source import TEMPLATES, find_template, loading_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The ChatML template: every turn between <|im_start|> and <|im_end|>."""

_R1 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ 'USER' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT' }}{% endif %}"
)
_R1_TOKENS = (("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"), ("<|User|>", "<|Assistant|>"))
_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
_UNUSED_TOKENS = (
    "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<pad>", "[PAD]", "<|pad|>", "<|padding|>",
    "<|fim_pad|>", "<|vision_pad|>", "<unk>", "<|endoftext|>",
)  # fmt: skip
_PROBE = "The quick fox is 12 years old, and w1 w2."
CONVERSATIONS_KEY = "lora_ns_conversations"
"""Key of tokenizer_config.json: whether the training rows were conversations, so that a plain text becomes a turn."""
_NEW_TOKENS_KEY = "lora_ns_new_tokens"  # stored in tokenizer_config.json, so that a resumed run knows them too


def load_tokenizer(section: ModelSection, source: str | None = None) -> PreTrainedTokenizerBase:
    """Load the base's tokenizer, or that of another folder (`source`), and apply the section's settings.

    Raises:
        ModelError: It is unavailable, or the section's pad token or template does not exist.
    """
    from transformers import AutoTokenizer

    if source is not None:
        section = section.model_copy(update={"name_or_path": str(Path(source).absolute()), "revision": None})
    with explain_loading(section):
        arguments = loading_arguments(section) if source is None else {}
        tokenizer = AutoTokenizer.from_pretrained(
            section.location, trust_remote_code=section.trust_remote_code, **arguments
        )
    _require_vocabulary(tokenizer, section)
    if not isinstance(tokenizer.model_max_length, int | float):
        length = tokenizer.model_max_length
        raise ModelError(f"{section.name_or_path}: model_max_length in tokenizer_config.json is {length!r}, no number")
    _compare_with_file(tokenizer, section)
    _add_special_tokens(tokenizer, section)
    _set_pad_token(tokenizer, section)
    _set_chat_template(tokenizer, section)
    return tokenizer


def added_token_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[int]:
    """Return the ids of the tokens that the run added, whose embedding rows must be trained and saved.

    They are also known for a tokenizer reloaded from the run's folder. Reserve rows of the base model count as new if a
    token is assigned to them. The model's embeddings must already be large enough.
    """
    ids = sorted(tokenizer.convert_tokens_to_ids(tokenizer.init_kwargs.get(_NEW_TOKENS_KEY, [])))
    num_rows = model.get_input_embeddings().weight.shape[0]
    assert not ids or ids[-1] < num_rows, f"token {ids[-1]} has no row among {num_rows}"
    return ids


def _require_vocabulary(tokenizer: PreTrainedTokenizerBase, section: ModelSection) -> None:
    """Reject a tokenizer of special tokens only, as transformers creates from some folders without tokenizer files."""
    if len(tokenizer.get_vocab()) <= len(tokenizer.added_tokens_decoder):
        raise ModelError(
            f"{section.name_or_path}: holds no tokenizer's vocabulary, so that no text can be read; copy its files "
            "(tokenizer.json or the like, tokenizer_config.json) beside config.json"
        )


def _compare_with_file(tokenizer: PreTrainedTokenizerBase, section: ModelSection) -> None:
    """Warn if the class that transformers chose tokenizes differently from the folder's own tokenizer.json.

    For some architectures (qwen2 ...) it uses its own class regardless of what the folder declares; a tokenizer of
    another type then silently returns other ids, or none.
    """
    file = Path(section.location) / "tokenizer.json"
    if not file.is_file():
        return
    from tokenizers import Tokenizer

    expected = Tokenizer.from_file(str(file)).encode(_PROBE, add_special_tokens=False).ids
    if expected != tokenizer(_PROBE, add_special_tokens=False)["input_ids"]:
        logger.warning(
            "transformers reads the tokenizer of %s as %s, which tokenizes text differently than its tokenizer.json",
            section.name_or_path,
            type(tokenizer).__name__,
        )


def _add_special_tokens(tokenizer: PreTrainedTokenizerBase, section: ModelSection) -> None:
    if not section.extra_special_tokens:
        return
    known = tokenizer.get_vocab()
    new = [token for token in section.extra_special_tokens if token not in known]
    tokenizer.add_special_tokens(
        {"extra_special_tokens": section.extra_special_tokens}, replace_extra_special_tokens=False
    )
    if new:
        tokenizer.init_kwargs[_NEW_TOKENS_KEY] = new
        logger.info("New tokens in the vocabulary: %s", ", ".join(new))


def _set_pad_token(tokenizer: PreTrainedTokenizerBase, section: ModelSection) -> None:
    known = tokenizer.get_vocab()
    if section.pad_token is not None:
        if section.pad_token not in known:
            raise ModelError(
                f"model.pad_token: {section.pad_token} is not in the vocabulary of {section.name_or_path}; "
                "name a token that is, or add it under model.extra_special_tokens"
            )
        tokenizer.pad_token = section.pad_token
    elif tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.pad_token = _find_unused_token(tokenizer) or tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise ModelError(f"{section.name_or_path} has no token to pad with; name one in model.pad_token")
        logger.info("Padding with %s", tokenizer.pad_token)
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{section.name_or_path}: its pad token {tokenizer.pad_token!r} is not in its vocabulary; name another one "
            "in model.pad_token, or copy the tokenizer's files again"
        )
    if tokenizer.pad_token == tokenizer.eos_token:
        logger.warning(
            "the pad token is the end-of-text token %s: an end-of-text token within a text is taken for "
            "padding; name another one in model.pad_token, or add one under model.extra_special_tokens",
            tokenizer.eos_token,
        )


def _find_unused_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    known = tokenizer.get_vocab()
    taken = [getattr(tokenizer, f"{kind}_token") for kind in ("eos", "bos", "sep", "cls", "mask")]
    return next((token for token in _UNUSED_TOKENS if token in known and token not in taken), None)


def _set_chat_template(tokenizer: PreTrainedTokenizerBase, section: ModelSection) -> None:
    if section.chat_template is None:
        return
    if section.chat_template == "r1":
        tokenizer.chat_template = _build_r1(tokenizer, section)
        return
    if section.chat_template != "chatml":
        try:
            file = find_template(section.chat_template) or Path(section.chat_template).expanduser()
            tokenizer.chat_template = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"model.chat_template: {section.chat_template} cannot be read ({error}); use {TEMPLATES}"
            ) from error
        return
    tokenizer.chat_template = CHATML
    missing = [token for token in _CHATML_TOKENS if token not in tokenizer.get_vocab()]
    if missing:
        logger.warning(
            "the chatml template writes %s, which %s does not know as tokens and cuts into pieces; add them "
            "under model.extra_special_tokens",
            " and ".join(missing),
            section.name_or_path,
        )


def _build_r1(tokenizer: PreTrainedTokenizerBase, section: ModelSection) -> str:
    """Return DeepSeek-R1's template in a trainable form, which keeps thoughts and opens none for a new turn."""
    known = tokenizer.get_vocab()
    pair = next((pair for pair in _R1_TOKENS if set(pair) <= known.keys()), None)
    if pair is None or tokenizer.eos_token is None:
        raise ModelError(f"model.chat_template: r1 needs DeepSeek-R1's own tokens, which {section.name_or_path} lacks")
    return _R1.replace("USER", pair[0]).replace("ASSISTANT", pair[1])
