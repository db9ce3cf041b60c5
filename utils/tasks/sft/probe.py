"""The probe of a language model: next-token logits at some positions of each probe row, and the loss of its answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.texts import RowError
from utils.data.conversations import as_context
from utils.data.dataset import Example, sample_evenly
from utils.data.encoding import MASKED, ExampleEncoder
from utils.tasks.probe import Answers, Ask, Probe, Probes, explain_damaged_rows, read_probes
from utils.tasks.sft.section import build_encoder

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig

NUM_RELOAD_ROWS = 32
_MAX_TOKENS = 512  # enough to compare weights: a row's first tokens pass through all of them
_NUM_POSITIONS = 4  # per row; a vocabulary of 150,000 takes 0.6 MB per position

_Tokens = tuple[list[int], list[int]]


def open_probe(config: RunConfig, run: Path | None, tokenizer: PreTrainedTokenizerBase, with_loss: bool) -> Probe:
    """Open the probe; its score is the mean loss over the answers' tokens of all probe rows.

    `run` is None for a model trained elsewhere; without `with_loss` there is no score.
    """
    probes = read_probes(run, ("prompt",))
    rows = encode_probes(probes, config, tokenizer)
    answered = sum(any(label != MASKED for label in labels[1:]) for _, labels in rows)
    return Probe(
        rows=probes.source,
        num_rows=len(rows),
        scored=f"loss on the answers of {probes.source}" if answered else f"{probes.source} have no answers",
        num_scored=answered if with_loss else 0,
        encode=lambda other: [ids for ids, _ in encode_probes(probes, config, other)],
        compute_logits=lambda model: _run(model, rows, _NUM_POSITIONS).logits,
        answer=lambda model: _run(model, rows, _NUM_POSITIONS, with_loss),
    )


def choose_reload_rows(rows: Dataset | None) -> Ask | None:
    """Choose rows with `input_ids` for comparing the logits after each row's last token; None without rows."""
    if rows is None or not len(rows):
        return None
    chosen: list[_Tokens] = [(row["input_ids"][:_MAX_TOKENS], []) for row in sample_evenly(rows, NUM_RELOAD_ROWS)]
    return lambda model: _run(model, chosen, 1)


def _run(model: PreTrainedModel, rows: list[_Tokens], num_positions: int, with_loss: bool = False) -> Answers:
    """Run one row at a time; return logits at `num_positions` positions spread over each row, the last one included."""
    import numpy as np
    import torch

    from utils.generation.classification import input_names

    chooses = not with_loss and "logits_to_keep" in input_names(model)  # the head is half of a small model's work
    kept, total, count = [], 0.0, 0
    model.eval()
    with torch.no_grad():
        for ids, labels in rows:
            row = torch.tensor([ids], device=model.device)
            # Counted from the end: peft's prompt methods put logits of their virtual tokens before the text's.
            places = sorted({len(ids) * part // num_positions - 1 for part in range(1, num_positions + 1)} - {-1})
            from_end = torch.tensor(places, device=row.device) - len(ids)
            wanted = {"logits_to_keep": from_end} if chooses else {}
            logits = model(input_ids=row, use_cache=False, **wanted).logits[0]
            kept.append((logits if chooses else logits[from_end]).float().cpu().numpy())
            if with_loss:
                targets = torch.tensor(labels[1:], dtype=torch.long, device=logits.device)  # empty for a single token
                predicted = logits[-len(ids) : -1].float()
                loss = torch.nn.functional.cross_entropy(predicted, targets, ignore_index=MASKED, reduction="sum")
                total, count = total + float(loss), count + int((targets != MASKED).sum())
    return Answers(np.concatenate(kept), {"loss": total / count} if count else None)


def encode_probes(probes: Probes, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> list[_Tokens]:
    """Encode probe rows as tokens and labels, without those that the chat template rejects."""
    encoder = build_encoder(config, tokenizer)
    with explain_damaged_rows(probes.source):
        return [tokens for row in probes.rows if (tokens := _encode_row(row, encoder))[0]]


def _encode_row(row: dict[str, Any], encoder: ExampleEncoder) -> _Tokens:
    """Encode one row: an example as in training, or a prompt as it was sent to the model, with its reference.

    Returns no tokens for a row that the chat template rejects, which training leaves out too.
    """
    if "reference" in row:
        encoder = replace(encoder, as_chat=False, system_prompt=None, truncation="cut_answer")
        example = Example(row["prompt"], f" {row['reference']}")
    else:
        num_context = row.get("num_context", 0)  # runs of earlier versions have it
        turns = row.get("messages", ())
        messages = (*as_context(turns[:num_context]), *turns[num_context:])
        tuples = {"messages": messages, "tools": tuple(row.get("tools", ())), "unread": ()}
        example = Example(**{**{key: value for key, value in row.items() if key != "num_context"}, **tuples})
    try:
        encoded = encoder.encode(example)
    except RowError:
        return [], []
    if not encoded.num_trained:  # a text without an answer, never trained on
        ids = encoder.encode_prompt(example)[:_MAX_TOKENS]
        return ids, [MASKED] * len(ids)
    return encoded.input_ids[:_MAX_TOKENS], encoded.labels[:_MAX_TOKENS]
