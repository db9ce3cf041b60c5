"""Map a tokenizer to llama.cpp's: byte-level BPE with a named pre-tokenizer, or SentencePiece's BPE."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from utils.core.errors import ModelError
from utils.core.json_files import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp knows a pre-tokenizer by its name only: a wrong one tokenizes differently, without an error.
_PRE_TOKENIZERS: dict[tuple[Any, ...], str] = {
    (("ByteLevel", True),): "gpt-2",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("Split", _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST), ("ByteLevel", False)): "llama-bpe",
    (("Split", _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST), ("ByteLevel", False)): "qwen2",
    (("Split", _TEKKEN), ("ByteLevel", False)): "tekken",
}
_WHOLE_WORDS = ("llama-bpe", "tekken")
"""Pre-tokenizers for which llama.cpp keeps words that are tokens, whatever the merges: `ignore_merges`."""
_SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_NUM_BYTES = 256
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE_TYPE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types


@dataclass(frozen=True)
class GgufVocabulary:
    """A tokenizer as a GGUF file represents it."""

    model: str
    """`gpt2`: byte-level BPE. `llama`: SentencePiece's BPE."""
    pre: str
    """The pre-tokenizer's name; `default` for SentencePiece."""
    tokens: list[str]
    types: list[int]
    scores: list[float] | None
    """Scores of SentencePiece's pieces: the highest is merged first."""
    merges: list[str] | None
    add_space_prefix: bool | None
    """For SentencePiece: whether a text starts with a space."""
    special: dict[str, int]
    """Ids by role: bos, eos, unk, pad."""
    adds: dict[str, bool]
    """Whether bos and eos are added to a text."""
    chat_template: str | None

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids by token."""
        return {token: id_ for id_, token in enumerate(self.tokens)}


def map_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int, name: str) -> GgufVocabulary:
    """Map a tokenizer, with its tokens padded to the number of the model's embeddings.

    Raises:
        ModelError: llama.cpp cannot tokenize like this tokenizer.
    """
    written = _read_json(tokenizer, name)
    model = written["model"]
    if model["type"] != "BPE":
        raise ModelError(f"{name}: its tokenizer is a {model['type']}; a GGUF of these models holds BPE alone")
    spaced = bool(model.get("byte_fallback"))
    merges = [each if isinstance(each, list) else each.split(" ", 1) for each in model["merges"]]
    tokens, types = _list_tokens(written, vocab_size, spaced, name)
    if spaced and types.count(_BYTE_TYPE) < _NUM_BYTES:
        raise ModelError(f"{name}: its tokenizer lacks pieces for some bytes, without which llama.cpp does not start")
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    chat_template = tokenizer.chat_template
    return GgufVocabulary(
        model="llama" if spaced else "gpt2",
        pre="default" if spaced else _name_pre_tokenizer(written, name),
        tokens=tokens,
        types=types,
        scores=_score_pieces(tokens, types, merges) if spaced else None,
        merges=None if spaced else [" ".join(each) for each in merges],
        add_space_prefix=_adds_space(written, name) if spaced else None,
        special={
            role: id_
            for role in ("bos", "eos", "unk", "pad")
            if (id_ := getattr(tokenizer, f"{role}_token_id")) is not None
        },
        adds={"bos": ids[0] == tokenizer.bos_token_id, "eos": ids[-1] == tokenizer.eos_token_id},
        chat_template=chat_template if isinstance(chat_template, str) else None,
    )


def cut_by_scores(vocabulary: GgufVocabulary, text: str) -> list[int]:
    """Tokenize a text without special tokens as llama.cpp does with a SentencePiece vocabulary.

    Of all neighbours whose join is a piece, those with the highest score are joined first, of equals the leftmost.
    """
    assert vocabulary.scores is not None, "only of SentencePiece"
    known = vocabulary.ids
    if not text:
        return []
    parts = list((_SPACE if vocabulary.add_space_prefix else "") + text.replace(" ", _SPACE))
    while True:
        pairs = [
            (vocabulary.scores[id_], -at)
            for at in range(len(parts) - 1)
            if (id_ := known.get(parts[at] + parts[at + 1])) is not None
        ]
        if not pairs:
            break
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [id_ for part in parts for id_ in _find_ids(part, known)]


def _find_ids(part: str, known: dict[str, int]) -> list[int]:
    return [known[part]] if part in known else [known[f"<0x{byte:02X}>"] for byte in part.encode()]


def _read_json(tokenizer: PreTrainedTokenizerBase, name: str) -> dict[str, Any]:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{name}: its tokenizer has no tokenizer.json, from which a GGUF is made")
    content: dict[str, Any] = parse_json(backend.to_str())
    return content


def _list_tokens(written: dict[str, Any], size: int, spaced: bool, name: str) -> tuple[list[str], list[int]]:
    tokens, types = [f"[PAD{index}]" for index in range(size)], [_UNUSED] * size
    added = written["added_tokens"]
    highest = max([*written["model"]["vocab"].values(), *(each["id"] for each in added)])
    if highest >= size:
        raise ModelError(f"{name}: its tokenizer has a token {highest}, but the model has embeddings for {size}")
    for token, id_ in written["model"]["vocab"].items():
        tokens[id_] = token
        types[id_] = _BYTE_TYPE if spaced and _BYTE.fullmatch(token) else _NORMAL
    for each in added:
        special = each["special"] or re.fullmatch(r"<\|.*\|>", each["content"]) is not None  # as llama.cpp's converter
        # llama.cpp searches the others in the original text, before spaces are rewritten
        tokens[each["id"]] = each["content"] if special else each["content"].replace(_SPACE, " ")
        types[each["id"]] = _CONTROL if special else _USER_DEFINED
    unknown = written["model"].get("unk_token")
    if spaced and unknown in tokens:
        types[tokens.index(unknown)] = _UNKNOWN
    return tokens, types


def _score_pieces(tokens: list[str], types: list[int], merges: list[list[str]]) -> list[float]:
    """Convert the order of merges to scores as in SentencePiece's BPE: minus the rank."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), rank)
    last = len(merges)
    return [
        float(-ranks.get(token, last)) if kind == _NORMAL else 0.0 if kind == _BYTE_TYPE else -1000.0
        for token, kind in zip(tokens, types, strict=True)
    ]


def _name_pre_tokenizer(written: dict[str, Any], name: str) -> str:
    normalizer, pre = written.get("normalizer"), written.get("pre_tokenizer") or {}
    parts = pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre]
    found = _PRE_TOKENIZERS.get(tuple(map(_describe_part, parts)))
    if found is None or any(each.get("add_prefix_space") for each in parts):
        raise ModelError(f"{name}: its tokenizer splits texts into words by rules that llama.cpp does not have: {pre}")
    if bool(written["model"].get("ignore_merges")) != (found in _WHOLE_WORDS):
        raise ModelError(f"{name}: its tokenizer looks up whole words differently from llama.cpp's {found}")
    if normalizer is not None and normalizer["type"] != "NFC":
        raise ModelError(f"{name}: its tokenizer rewrites texts ({normalizer['type']}), which llama.cpp does not")
    return found


def _describe_part(part: dict[str, Any]) -> tuple[str, Any]:
    kind = str(part.get("type"))
    if kind == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
        return kind, part["pattern"].get("Regex")
    return kind, part.get({"ByteLevel": "use_regex", "Digits": "individual_digits"}.get(kind, ""))


def _adds_space(written: dict[str, Any], name: str) -> bool:
    """Return whether a text gets a leading space, and check that only spaces are rewritten."""
    normalizer, pre = written.get("normalizer") or {}, written.get("pre_tokenizer") or {}
    steps = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer] if normalizer else []
    kinds = [each["type"] for each in steps]
    spaced = all(each.get("prepend", _SPACE) == _SPACE and each.get("content", _SPACE) == _SPACE for each in steps)
    if pre.get("type") == "Metaspace" and not kinds and not pre.get("split", True):
        return bool(pre["prepend_scheme"] != "never")
    if not pre and spaced and kinds in (["Prepend", "Replace"], ["Replace"]):
        return bool(kinds[0] == "Prepend")
    # Gemma's splits at spaces, which are replaced before
    if kinds == ["Replace"] and spaced and pre.get("type") == "Split" and pre["pattern"] == {"String": " "}:
        return False
    raise ModelError(f"{name}: its tokenizer rewrites texts in a way that llama.cpp does not: {normalizer} {pre}")
