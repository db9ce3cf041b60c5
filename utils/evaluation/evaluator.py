"""Has a model answer the prompts of a set, row by row on the disk, and scores the answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.evaluation.identity import hash_json, hash_model
from utils.evaluation.predictions import (
    Record,
    append_records,
    read_object,
    read_records,
    write_object,
    write_records,
)
from utils.evaluation.processes import count_processes, find_rank, gather_lists, share_from_first
from utils.evaluation.progress import show_progress
from utils.evaluation.score import SetScore
from utils.evaluation.sets import EvaluationSet
from utils.generation.causal_lm import Generated, TextGenerator
from utils.generation.section import GenerationSection
from utils.metrics.bootstrap import bootstrap_mean
from utils.metrics.metric import average_rows, load_metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

PREDICTIONS = "predictions.jsonl"
RESULTS = "results.json"
IDENTITY = "identity.json"


def evaluate_set(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    evaluation_set: EvaluationSet,
    generation: GenerationSection,
    folder: Path,
    stop_token_ids: Sequence[int] = (),
) -> SetScore:
    """Answer a set's prompts and score the answers.

    Answers are written to `predictions.jsonl` batch by batch; a later call on the folder goes on behind them when
    prompts, references, settings and weights are the same, and starts anew otherwise, which it says. At the end that
    file is put into the order of the set, and `results.json` is written. All processes of a run call this together:
    each answers a share of the prompts, the first one writes, and all get the score.

    Args:
        model: On its device, in any mode; not wrapped for several processes.
        tokenizer: The one the prompts were made with.
        evaluation_set: Prompts, references, metrics.
        generation: Length, temperature, batch size; the batch size may change between calls.
        folder: Made if it is missing; no other results may lie in it.
        stop_token_ids: Tokens that end an answer, besides the model's and the tokenizer's own.

    Raises:
        DataError: A prompt is empty or leaves the model no position to write at.
        UserError: The folder holds results of something else.
    """
    identity = build_identity(model, evaluation_set, generation, stop_token_ids)
    done: list[Record] = share_from_first(_open_folder(folder, identity) if find_rank() == 0 else [])
    generator = TextGenerator(
        model, tokenizer, generation, evaluation_set.stop, stop_token_ids, seed=evaluation_set.seed
    )
    work = _Work(generator, tokenizer, evaluation_set, generation.batch_size)
    records = [*done, *work.answer(done, folder / PREDICTIONS)]
    score = _finish(records, evaluation_set, identity, folder) if find_rank() == 0 else None
    shared: SetScore = share_from_first(score)
    return shared


def build_identity(
    model: PreTrainedModel, known: EvaluationSet, generation: GenerationSection, stop_token_ids: Sequence[int]
) -> dict[str, Any]:
    """Name all that decides what is written, by part: what a folder's identity.json holds."""
    settings = generation.model_dump(exclude={"batch_size"})
    if generation.temperature > 0:
        settings["seed"] = known.seed
    settings["stop"] = sorted({*generation.stop, *known.stop})
    return {
        "prompts": hash_json([known.prompts, known.references]),
        "generation": {**settings, "stop_token_ids": sorted(stop_token_ids)},
        "model": hash_model(model),
    }


@dataclass(frozen=True)
class _Work:
    """One set to be answered."""

    generator: TextGenerator
    tokenizer: PreTrainedTokenizerBase
    evaluation_set: EvaluationSet
    batch_size: int

    def answer(self, done: list[Record], path: Path) -> list[Record]:
        """Answer what is not done, in rounds of one batch per process, each written before the next."""
        answered = {record["row"] for record in done}
        prompts = self.evaluation_set.prompts
        pending = [row for row in range(len(prompts)) if row not in answered]
        pending.sort(key=lambda row: (-len(prompts[row]), row))
        rank, num_processes = find_rank(), count_processes()
        num_rounds = -(-len(pending) // (num_processes * self.batch_size))
        share = self.generator.generate(prompts, only=pending[rank::num_processes])
        records: list[Record] = []
        with show_progress(self.evaluation_set.label, len(prompts), len(done), rank == 0) as advance:
            for _ in range(num_rounds):
                written = self._answer_round(share)
                if rank == 0:
                    append_records(path, written)
                advance(len(written), sum(record["num_tokens"] for record in written))
                records += written
        return records

    def _answer_round(self, share: Iterator[tuple[int, Generated]]) -> list[Record]:
        start = time.perf_counter()
        mine = list(islice(share, self.batch_size))
        written = gather_lists([self._record(row, answer) for row, answer in mine])
        seconds = (time.perf_counter() - start) / max(len(written), 1)
        written = [{**record, "seconds": round(seconds, 6)} for record in written]
        _score_records(written, self.evaluation_set.metrics)
        return written

    def _record(self, row: int, answer: Generated) -> Record:
        known = self.evaluation_set
        return {
            "row": row,
            "id": known.ids[row],
            "prompt": self.tokenizer.decode(known.prompts[row]),
            "prediction": answer.text,
            "reference": known.references[row],
            "num_tokens": answer.num_tokens,
            "finished": answer.finished,
        }


def _open_folder(folder: Path, identity: dict[str, Any]) -> list[Record]:
    """Read what an earlier call of the same identity has written; clear away what another one has."""
    folder.mkdir(parents=True, exist_ok=True)
    before = read_object(folder / IDENTITY)
    for name in (RESULTS, PREDICTIONS) if before is None else ():
        if (folder / name).exists():
            raise UserError(f"{folder}: holds {name} of something else; evaluate into another folder")
    if before == identity:
        records = read_records(folder / PREDICTIONS)
        if records:
            _log.info("%s: going on behind %d answers of an earlier call", folder, len(records))
        return records
    if before is not None:
        changed = " and ".join(key for key in identity if before.get(key) != identity[key])
        _log.warning("%s: starting anew, since an earlier call had other %s", folder, changed)
    for name in (RESULTS, PREDICTIONS):
        (folder / name).unlink(missing_ok=True)
    write_object(folder / IDENTITY, identity)
    return []


def _finish(records: list[Record], known: EvaluationSet, identity: dict[str, Any], folder: Path) -> SetScore:
    """Put all records in order, score them by the metrics of this call, and write both files whole."""
    records.sort(key=lambda record: record["row"])
    _score_records(records, known.metrics)
    score = _summarize(records, known, identity)
    write_records(folder / PREDICTIONS, records)
    write_object(folder / RESULTS, {"version": 1, **score.to_dict()})
    return score


def _score_records(records: list[Record], metrics: Sequence[str]) -> None:
    """Put each row's scores into its record; null where a metric is not defined on a row."""
    import numpy as np

    predictions = [record["prediction"] for record in records]
    references = [record["reference"] for record in records]
    columns = {}
    for metric in map(load_metric, metrics):
        assert metric.score_rows is not None, f"got the metric {metric.name} of {metric.kind}"
        columns[metric.name] = metric.score_rows(predictions, references)
    for index, record in enumerate(records):
        scores = {name: float(column[index]) for name, column in columns.items()}
        record["scores"] = {name: None if np.isnan(score) else score for name, score in scores.items()}


def _summarize(records: list[Record], known: EvaluationSet, identity: dict[str, Any]) -> SetScore:
    """Average the scores of all rows."""
    import numpy as np

    names = [load_metric(name).name for name in known.metrics]
    every = {name: np.array([record["scores"][name] for record in records], dtype=np.float64) for name in names}
    columns = {name: column for name, column in every.items() if not np.isnan(column).all()}
    if absent := [name for name in names if name not in columns]:
        _log.warning("%s: no reference has an answer for %s; left out", known.label, ", ".join(absent))
    num_tokens = sum(record["num_tokens"] for record in records)
    seconds = sum(record["seconds"] for record in records)
    return SetScore(
        label=known.label,
        metrics={name: average_rows(column) for name, column in columns.items()},
        interval={name: bootstrap_mean(column) for name, column in columns.items()},
        num_scored={name: int((~np.isnan(column)).sum()) for name, column in columns.items()},
        n=len(records),
        num_total=known.num_total,
        partial=len(records) < known.num_total,
        protocol=known.protocol,
        prompt_hash=known.prompt_hash,
        fingerprint=known.fingerprint,
        num_cut=known.num_cut,
        generation=identity["generation"],
        mean_tokens=num_tokens / max(len(records), 1),
        num_unfinished=sum(not record["finished"] for record in records),
        seconds=round(seconds, 3),
        tokens_per_s=round(num_tokens / seconds, 1) if seconds else 0.0,
        identity={key: value for key, value in identity.items() if key != "generation"},
    )
