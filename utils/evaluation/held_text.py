"""Perplexity of a held-out text, window by window, so that two models can be compared in pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import DataError
from utils.core.signals import interruption_requested, raise_if_interrupted
from utils.evaluation.files import IDENTITY, PREDICTIONS, RESULTS, Record, read_object, write_object, write_records
from utils.evaluation.identity import hash_model, hash_rows
from utils.generation.model_state import find_window, ready_to_generate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LONGEST = 1024


def score_held_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path, folder: Path, max_rows: int | None
) -> None:
    """Score a text in windows without overlap; finished results of the same weights and text are kept.

    A window spans the model's positions, at most 1,024, and starts with the tokenizer's BOS token if it has one.
    predictions.jsonl has each window's negative log-likelihood `nll` (nats, summed over `num_tokens`), results.json the
    perplexity: exp of their mean over all tokens.

    Raises:
        DataError: The file cannot be read, or has no text.
    """
    rows = list(_cut(tokenizer, file, min(find_window(model) or _LONGEST, _LONGEST)))
    if not rows:
        raise DataError(f"{file}: holds no text")
    kept = rows[:max_rows]
    identity = {"prompts": hash_rows(kept, []), "model": hash_model(model)}
    if read_object(folder / IDENTITY) == identity and (folder / RESULTS).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).unlink(missing_ok=True)
    write_object(folder / IDENTITY, identity)
    records = list(_score(model, kept))
    write_records(folder / PREDICTIONS, records)
    facts = {
        "n": len(kept),
        "num_total": len(rows),
        "partial": len(kept) < len(rows),
        "protocol": "perplexity of a text",
    }
    write_object(folder / RESULTS, {"version": 1, "metrics": {"perplexity": find_perplexity(records)}, **facts})


def find_perplexity(records: Sequence[Record]) -> float:
    """Compute exp of the mean negative log-likelihood per token, capped at the largest number that JSON can hold."""
    mean = sum(each["nll"] for each in records) / sum(each["num_tokens"] for each in records)
    return math.exp(min(mean, 700.0))


def _cut(tokenizer: PreTrainedTokenizerBase, file: Path, window: int) -> Iterator[list[int]]:
    try:
        text = file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text: {error}") from None
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    start = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    step = max(window - len(start), 1)
    for at in range(0, len(ids), step):
        row = start + ids[at : at + step]
        if len(row) > 1:  # a single token predicts nothing
            yield row


def _score(model: PreTrainedModel, rows: Sequence[list[int]]) -> Iterator[Record]:
    import torch

    with ready_to_generate(model), torch.no_grad():
        for number, row in enumerate(rows):
            if interruption_requested():
                raise_if_interrupted()
            ids = torch.tensor([row], device=model.device)
            output: Any = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
            logits = output.logits[0, -len(row) : -1].float()  # virtual tokens precede the text
            nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            yield {"row": number, "num_tokens": len(row) - 1, "nll": float(nll)}
