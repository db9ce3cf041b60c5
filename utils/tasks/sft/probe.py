"""The probe of a language model: next-token logits at some positions of each probe row, and the loss of its answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.sections.dataset import InstructionSection
from utils.core.texts import RowError
from utils.data.conversations import as_context
from utils.data.dataset import Example
from utils.data.encoding import MASKED, ExampleEncoder
from utils.tasks.probe import Answers, explain_damaged_rows, read_probes
from utils.tasks.sft.section import OwnSftSection

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig

_MAX_TOKENS = 512  # the comparison is of weights: a row's first tokens go through all of them
_NUM_POSITIONS = 4  # of a row; a vocabulary of 150,000 is 0.6 MB each

_Tokens = tuple[list[int], list[int]]


class LanguageProbe:
    """See Probe; the loss is the mean over the answers' tokens of all probe rows.

    Args:
        config: Of the model's run.
        run: The run's folder; None: it was trained elsewhere.
        tokenizer: Its own.
        with_loss: Whether to score at all.
    """

    def __init__(
        self, config: RunConfig, run: Path | None, tokenizer: PreTrainedTokenizerBase, with_loss: bool
    ) -> None:
        self._config = config
        self._probes = read_probes(run, ("prompt",))
        self._tokens = self._encode(tokenizer)
        answered = sum(any(label != MASKED for label in labels[1:]) for _, labels in self._tokens)
        self.rows, self.num_rows = self._probes.source, len(self._tokens)
        self.num_scored = answered if with_loss else 0
        self.scored = f"loss on the answers of {self.rows}" if answered else f"{self.rows} hold no answers"

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Give the probe rows' tokens."""
        return [ids for ids, _ in self._encode(tokenizer)]

    def compute_logits(self, model: PreTrainedModel) -> np.ndarray[Any, Any]:
        """Give the logits at four positions of each row, the last one among them."""
        return self.answer(model).logits

    def answer(self, model: PreTrainedModel) -> Answers:
        """Give logits and loss, one row at a time."""
        import numpy as np
        import torch

        kept, total, count = [], 0.0, 0
        model.eval()
        with torch.inference_mode():
            for ids, labels in self._tokens:
                row = torch.tensor([ids], device=model.device)
                logits = model(input_ids=row, use_cache=False).logits[0].float()
                positions = {(len(ids) * part) // _NUM_POSITIONS - 1 for part in range(1, _NUM_POSITIONS + 1)}
                kept.append(logits[sorted(positions - {-1})].cpu().numpy())
                targets = torch.tensor(labels[1:], dtype=torch.long, device=logits.device)  # none after a lone token
                loss = torch.nn.functional.cross_entropy(logits[:-1], targets, ignore_index=MASKED, reduction="sum")
                total, count = total + float(loss), count + int((targets != MASKED).sum())
        score = {"loss": total / count} if count and self.num_scored else None
        return Answers(np.concatenate(kept), score)

    def _encode(self, tokenizer: PreTrainedTokenizerBase) -> list[_Tokens]:
        section, sft = self._config.dataset, self._config.section(OwnSftSection)
        assert isinstance(section, InstructionSection), f"got {type(section)}"
        encoder = ExampleEncoder.build(tokenizer, section, sft.max_length, not sft.completion_only_loss)
        with explain_damaged_rows(self._probes.source):
            return [tokens for row in self._probes.rows if (tokens := _encode_row(row, encoder))[0]]


def _encode_row(row: dict[str, Any], encoder: ExampleEncoder) -> _Tokens:
    """Encode one row: an example as it is trained on, or a prompt as it was sent to the model, with its reference.

    Gives no tokens of a row that the chat template refuses, which training has left out as well.
    """
    if "reference" in row:
        encoder = replace(encoder, as_chat=False, system_prompt=None, truncation="cut_answer")
        example = Example(row["prompt"], f" {row['reference']}")
    else:
        num_context = row.get("num_context", 0)  # of runs of earlier versions
        turns = row.get("messages", ())
        messages = (*as_context(turns[:num_context]), *turns[num_context:])
        tuples = {"messages": messages, "tools": tuple(row.get("tools", ())), "unread": ()}
        example = Example(**{**{key: value for key, value in row.items() if key != "num_context"}, **tuples})
    try:
        encoded = encoder.encode(example)
    except RowError:
        return [], []
    if not encoded.num_trained:  # a text without answer, which nobody would train on
        ids = encoder.encode_prompt(example)[:_MAX_TOKENS]
        return ids, [MASKED] * len(ids)
    return encoded.input_ids[:_MAX_TOKENS], encoded.labels[:_MAX_TOKENS]
