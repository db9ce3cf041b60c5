"""Encodes rows in blocks into a cached file of tokens, and previews them as the model sees them."""

from __future__ import annotations

import json
import logging
import os
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.cores import count_cores
from utils.core.json_files import load_as
from utils.core.progress import RowProgress
from utils.core.texts import RowError
from utils.data.dataset import Example
from utils.data.encoding import MASKED, Encoded, ExampleEncoder
from utils.data.reading import ReadSplit
from utils.data.report import summarize_lengths
from utils.data.tokenizing import cache_tokens

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_LAYOUT = "2"
"""Version of the cached files' layout."""
_BLOCK = 1000
_NUM_SHOWN = 5
_NUM_LOGGED = 20_000
_MAX_THREADS = 16

_Block = tuple[Sequence[int], list[Example], list["list[Encoded] | RowError"]]


@dataclass
class EncodingCounts:
    """Statistics on encoding rows, cached with the tokens; most of them become part of an InstructionReport."""

    bad: list[tuple[int, str]] = field(default_factory=list)
    """Positions of rows that the chat template rejects, with the reasons."""
    empty_rows: int = 0
    too_long_rows: int = 0
    empty: list[int] = field(default_factory=list)
    """Positions of the first rows without a trained token."""
    too_long: list[int] = field(default_factory=list)
    """Positions of the first rows that are too long and not cut."""
    prompts_cut: int = 0
    answers_cut: int = 0
    conversations_cut: int = 0
    cut_turns: int = 0
    untrained_turns: int = 0
    weightless_turns: int = 0
    rows_used: int = 0
    """Number of examples used; each may become several rows."""
    num_encoded: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    num_tokens: int = 0
    num_trained: int = 0
    token_lengths_uncut: dict[str, int] = field(default_factory=dict)
    token_lengths: dict[str, int] = field(default_factory=dict)

    def add_example(self, example: Example, encoded: list[Encoded]) -> None:
        """Count one used example, over all rows that it could have become."""
        self.rows_used += 1
        self.cut_turns += example.num_cut_turns
        self.weightless_turns += sum(not turn.get("train", True) for turn in example.messages)
        self.untrained_turns += sum(row.untrained_turns for row in encoded)
        self.conversations_cut += any(row.too_long for row in encoded)
        for note in [note for row in encoded for note in row.notes]:
            self.notes[note] = self.notes.get(note, 0) + 1

    def add(self, encoded: Encoded) -> None:
        """Count one used row."""
        self.num_encoded += 1
        self.prompts_cut += encoded.prompt_cut > 0
        self.answers_cut += encoded.answer_cut > 0
        self.conversations_cut += encoded.exchanges_cut > 0
        self.num_tokens += encoded.num_tokens
        self.num_trained += encoded.num_trained


def encode_rows(split: ReadSplit, positions: Sequence[int], encoder: ExampleEncoder) -> tuple[Dataset, EncodingCounts]:
    """Encode the examples at some positions of a split, in that order, with statistics.

    Rows have the encoder's columns; rows without a trained token or too long are left out.
    """
    import pyarrow as pa
    from datasets import Dataset

    types = {list: pa.list_(pa.int32()), int: pa.int32(), float: pa.float64(), str: pa.string()}
    schema = pa.schema({name: types[kind] for name, kind in encoder.COLUMNS.items()})

    def write(folder: Path) -> None:
        if len(positions) >= _NUM_LOGGED:
            logger.info("data %s: encoding %d rows", split.name, len(positions))
        counts, cuts = EncodingCounts(), encoder.truncation in ("keep_answer", "cut_answer")
        before, after = array("q"), array("q")
        with (
            pa.OSFile(str(folder / "rows.arrow"), "wb") as target,
            pa.ipc.new_stream(target, schema) as writer,
            RowProgress(f"encoding {split.name}", lambda: len(positions), live=len(positions) > _BLOCK) as progress,
        ):
            for block, examples, encoded in _encode_ahead(split, positions, encoder):
                used = _select_usable(block, examples, encoded, counts, cuts)
                rows = [row.to_row() for row in used]
                before.extend(row.full_length for row in used)
                after.extend(row["length"] for row in rows)
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
                progress.advance(len(block), sum(row["length"] for row in rows))
        counts.token_lengths_uncut, counts.token_lengths = summarize_lengths(before), summarize_lengths(after)
        (folder / "rows.json").write_text(json.dumps(asdict(counts)), "utf-8")

    def read(file: Path, record: Path) -> tuple[Dataset, EncodingCounts] | None:
        rows, counts = Dataset.from_file(str(file)), load_as(EncodingCounts, record)
        return (rows, counts) if len(rows) == counts.num_encoded else None

    settings = [_LAYOUT, encoder.fingerprint, split.fingerprint(positions)]
    return cache_tokens("encoded", settings, [".arrow", ".json"], write, read)


def _encode_ahead(split: ReadSplit, positions: Sequence[int], encoder: ExampleEncoder) -> Iterator[_Block]:
    """Encode blocks of rows, in order, on all cores: the tokenizer releases Python's lock."""
    num_threads = max(1, min(_MAX_THREADS, count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    waiting: deque[tuple[Sequence[int], list[Example], Future[list[list[Encoded] | RowError]]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool, _cancelling(pool):
        for start in range(0, len(positions), _BLOCK):
            block = positions[start : start + _BLOCK]
            examples = list(split.examples(block))
            waiting.append((block, examples, pool.submit(encoder.encode_many, examples)))
            if len(waiting) > num_threads:  # bounds the number of blocks in memory
                first, read, future = waiting.popleft()
                yield first, read, future.result()
        for first, read, future in waiting:
            yield first, read, future.result()


@contextmanager
def _cancelling(pool: ThreadPoolExecutor) -> Iterator[None]:
    """Cancel the waiting blocks when the work ends early."""
    try:
        yield
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _select_usable(
    block: Sequence[int],
    examples: list[Example],
    results: list[list[Encoded] | RowError],
    counts: EncodingCounts,
    cuts: bool,
) -> list[Encoded]:
    """Return the usable rows and count the others; unless rows are cut, an example is used in full or not at all."""
    used = []
    for position, example, encoded in zip(block, examples, results, strict=True):
        if isinstance(encoded, RowError):
            counts.bad.append((position, str(encoded)))
            continue
        fitting = [row for row in encoded if row.is_usable and not row.too_long]
        if fitting and (cuts or len(fitting) == len(encoded)):
            counts.add_example(example, encoded)
            for row in fitting:
                counts.add(row)
            used += fitting
        elif any(row.too_long for row in encoded):
            counts.too_long_rows += 1
            counts.too_long += [position] if counts.too_long_rows <= _NUM_SHOWN else []
        else:
            counts.empty_rows += 1
            counts.empty += [position] if counts.empty_rows <= _NUM_SHOWN else []
    return used


def render_preview(rows: Dataset, tokenizer: PreTrainedTokenizerBase, count: int) -> Text:
    """Render the first rows for a terminal, special tokens included: trained tokens in green, others dimmed."""
    from rich.text import Text

    text = Text()
    text.append("trained on", style="green").append(", ").append("not trained on\n", style="dim")
    for title, parts in _decode_rows(rows, tokenizer, count):
        text.append(f"\n{title}\n", style="bold")
        for part, trained in parts:
            text.append(part, style="green" if trained else "dim")
        text.append("\n")
    return text


def format_preview(rows: Dataset, tokenizer: PreTrainedTokenizerBase, count: int) -> str:
    """Format the first rows for a file or a pipe: trained tokens between [[ and ]]."""
    lines = ["[[trained on]], not trained on"]
    for title, parts in _decode_rows(rows, tokenizer, count):
        lines += ["", title, "".join(f"[[{part}]]" if trained else part for part, trained in parts)]
    return "\n".join(lines) + "\n"


def _decode_rows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, count: int
) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """Yield every row's title, and its runs of trained and untrained text."""
    for index in range(min(count, len(rows))):
        for side, ids, labels in _list_sides(rows[index]):
            num_trained = sum(label != MASKED for label in labels)
            runs = groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != MASKED)
            parts = [
                (tokenizer.decode([token for token, _ in run], clean_up_tokenization_spaces=False), trained)
                for trained, run in runs
            ]
            yield f"row {index + 1} of {len(rows)}{side}: {len(labels)} tokens, {num_trained} trained on", parts


def _list_sides(row: dict[str, Any]) -> Iterator[tuple[str, list[int], list[int]]]:
    """Yield the texts of a row, two for a pair, each with its description."""
    paired = "rejected_input_ids" in row
    good = {None: "", 0: ", labelled bad", 1: ", labelled good"}[row.get("is_good")]
    yield ", chosen" if paired else good, row["input_ids"], row["labels"]
    if paired:
        yield ", rejected", row["rejected_input_ids"], row["rejected_labels"]
