"""The data of a language-model run: encoded rows, and sets whose prompts are answered by generating."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from utils.data.dataset import sample_evenly
from utils.data.encoding import ExampleEncoder
from utils.data.instruction import InstructionData
from utils.data.splits import draw_rows
from utils.evaluation.sets import EvaluationSet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset


@dataclass
class CausalData:
    """The prepared data of a language-model run."""

    instructions: InstructionData
    encoder: ExampleEncoder
    train: Dataset
    """Training rows, packed if `sft.packing` is set."""
    sets: list[EvaluationSet]
    """Sets whose prompts are answered by generating."""
    leakage: list[dict[str, Any]] = field(default_factory=list)
    """Overlap of the sets with the training rows: {"set", "rows", "documents"}."""
    times: int = 1
    """How often an epoch repeats each training row."""
    label_names: tuple[str, ...] | None = None
    """None: there is no head; empty: its output is a number."""

    @property
    def num_train_rows(self) -> int:
        """Rows, packed rows or answers per epoch."""
        return len(self.train) * self.times

    @property
    def fingerprint(self) -> str:
        """Hash of all rows used."""
        return self.instructions.fingerprint

    @property
    def commit(self) -> str | None:
        """Resolved commit of a hub dataset."""
        return self.instructions.commit

    @property
    def reports(self) -> Mapping[str, Any]:
        """Report on each split."""
        return self.instructions.reports

    def count_shown(self) -> tuple[int, int]:
        """Count the rows, and their tokens, in training and its evaluations, each once."""
        shown = [self.instructions.train, *self.instructions.evals.values()]
        return sum(map(len, shown)), sum(sum(each["length"][:]) for each in shown)

    def list_training_lengths(self) -> list[int]:
        """Count the tokens of every row of an epoch; a packed row holds several documents, a pair both answers."""
        texts = [self.train[name][:] for name in ("input_ids", "rejected_input_ids") if name in self.train.column_names]
        return [sum(map(len, row)) for row in zip(*texts, strict=True)]

    @property
    def longest_row(self) -> int:
        """Tokens of the longest training row, before packing."""
        return max(self.instructions.train["length"][:], default=0)

    def draw_training_rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Draw encoded training rows by a seed, unpacked; all of them if there are fewer."""
        rows = self.instructions.train
        return [dict(rows[index]) for index in draw_rows(range(len(rows)), count, seed)]

    def probe_rows(self, count: int) -> list[dict[str, Any]]:
        """Return some prompts with their references, from the validation rows, an evaluation set, or the training rows.

        For a reward model, a pair's rejected answer follows as a row of its own.
        """
        if (examples := self.instructions.validation_examples) or not self.sets:
            rows = sample_evenly(examples, count) if examples else islice(self.instructions.read_train(), count)
            sides = [side for each in rows for side in (each, each.rejected if self.label_names == () else None)]
            plain = [replace(each, rejected=None, is_good=None, margin=None) for each in sides if each is not None]
            return [asdict(each) for each in plain[:count]]
        tokenizer, asked = self.encoder.tokenizer, self.sets[0]
        return [
            {"prompt": tokenizer.decode(ids, skip_special_tokens=True), "reference": reference}
            for ids, reference in sample_evenly(list(zip(asked.prompts, asked.references, strict=True)), count)
        ]
