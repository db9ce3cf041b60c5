"""Has a model answer the prompts of a set, row by row on the disk, and scores the answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.sections.generation import GenerationSection
from utils.core.errors import UserError
from utils.core.signals import interruption_requested, raise_if_interrupted
from utils.evaluation.identity import hash_model, hash_rows
from utils.evaluation.predictions import (
    Record,
    append_records,
    read_at,
    read_object,
    scan_records,
    write_object,
    write_records,
)
from utils.evaluation.processes import count_processes, find_rank, gather_lists, run_together, share_from_first
from utils.evaluation.progress import show_progress
from utils.evaluation.score import SetScore
from utils.evaluation.sets import EvaluationSet
from utils.evaluation.summary import Summary, describe_set, score_records
from utils.generation.backend import GenerationBackend, open_backend
from utils.metrics.metric import load_metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PREDICTIONS = "predictions.jsonl"
RESULTS = "results.json"
IDENTITY = "identity.json"
_CHUNK = 64  # records held at once while a file is put into order


@dataclass(frozen=True)
class SetFiles:
    """The files of one set's evaluation: in a folder of their own, or beside those of others under a prefix."""

    folder: Path
    prefix: str = ""

    @property
    def predictions(self) -> Path:
        """The answers, one a line."""
        return self.folder / f"{self.prefix}{PREDICTIONS}"

    @property
    def results(self) -> Path:
        """The score."""
        return self.folder / f"{self.prefix}{RESULTS}"

    @property
    def identity(self) -> Path:
        """What decides the answers; hidden where other sets' files lie beside."""
        return self.folder / (f".{self.prefix}{IDENTITY}" if self.prefix else IDENTITY)


def evaluate_set(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    evaluation_set: EvaluationSet,
    generation: GenerationSection,
    folder: Path | SetFiles,
    stop_token_ids: Sequence[int] = (),
) -> SetScore:
    """Answer a set's prompts and score the answers.

    Answers are written to `predictions.jsonl` batch by batch; a later call on the folder goes on behind them when
    prompts, references, settings and weights are the same, and starts anew otherwise, which it says. At the end that
    file is put into the order of the set, and `results.json` is written. All processes of a run call this together:
    each answers a share of the prompts, the first one writes, and all get the score. What fails in one of them fails
    in all. Answers stand on the disk, not in memory.

    Args:
        model: On its device, in any mode; not wrapped for several processes.
        tokenizer: The one the prompts were made with.
        evaluation_set: Prompts, references, metrics, and what its protocol says of the answers.
        generation: Length, temperature, batch size; the batch size may change between calls.
        folder: Where its files go, made if it is missing; no other results may lie there under these names.
        stop_token_ids: Tokens that end an answer, besides the model's and the tokenizer's own.

    Raises:
        DataError: A prompt is empty or leaves the model no position to write at.
        UserError: The folder holds results of something else, or another process failed.
    """
    files = folder if isinstance(folder, SetFiles) else SetFiles(folder)
    section = resolve_generation(generation, evaluation_set)
    identity = run_together(lambda: build_identity(model, evaluation_set, generation, stop_token_ids))
    opened = run_together(lambda: _open_files(files, identity, evaluation_set) if find_rank() == 0 else None)
    found: SetScore | set[int] = share_from_first(opened)
    if isinstance(found, SetScore):
        return found
    stop, seed = evaluation_set.stop, evaluation_set.seed
    backend = run_together(lambda: open_backend(model, tokenizer, section, stop, stop_token_ids, seed=seed))
    _Work(backend, tokenizer, evaluation_set, files).answer(found)
    score = run_together(lambda: _finish(files, evaluation_set, identity, rescored=found) if find_rank() == 0 else None)
    shared: SetScore = share_from_first(score)
    return shared


def build_identity(
    model: PreTrainedModel, known: EvaluationSet, generation: GenerationSection, stop_token_ids: Sequence[int]
) -> dict[str, Any]:
    """Name all that decides what is written, by part: what a folder's identity.json holds."""
    section = resolve_generation(generation, known)
    settings = section.list_deciding()
    if section.temperature > 0:
        settings["seed"] = known.seed
    settings["stop"] = sorted({*section.stop, *known.stop})
    return {
        "prompts": hash_rows(known.prompts, known.references),
        "generation": {**settings, "stop_token_ids": sorted(stop_token_ids)},
        "model": hash_model(model),
    }


def resolve_generation(generation: GenerationSection, known: EvaluationSet) -> GenerationSection:
    """Let a set's own protocol decide over the run's settings: the length of answers, and whether they are drawn."""
    changes: dict[str, Any] = {}
    if known.max_new_tokens is not None:
        changes["max_new_tokens"] = known.max_new_tokens
    if known.min_new_tokens:
        changes["min_new_tokens"] = known.min_new_tokens
    if known.greedy:
        changes |= {"temperature": 0.0, "top_p": None, "top_k": None}
    return generation.model_copy(update=changes)


@dataclass(frozen=True)
class _Work:
    """One set to be answered."""

    backend: GenerationBackend
    tokenizer: PreTrainedTokenizerBase
    evaluation_set: EvaluationSet
    files: SetFiles

    def answer(self, answered: set[int]) -> None:
        """Answer what is not, in rounds of one batch per process, each written before the next.

        The batches are those of the whole set, whatever is done already: rounding may differ with a row's neighbours.

        Raises:
            Interrupted: A process was asked to stop.
        """
        prompts = self.evaluation_set.prompts
        run_together(lambda: self.backend.check_prompts(prompts))
        planned = self.backend.plan_batches(prompts)
        batches = [kept for batch in planned if (kept := [row for row in batch if row not in answered])]
        rank, step = find_rank(), count_processes()
        with show_progress(self.evaluation_set.label, len(prompts), len(answered), rank == 0) as advance:
            for start in range(0, len(batches), step):
                if any(gather_lists([interruption_requested()])):
                    raise_if_interrupted()  # what was answered is on the disk
                mine = batches[start + rank] if start + rank < len(batches) else []
                written = self._answer_round(mine)
                advance(len(written), sum(num_tokens for _, num_tokens in written))

    def _answer_round(self, batch: list[int]) -> list[tuple[int, int]]:
        """Answer a batch in each process and write the answers of all; gives rows with their tokens."""
        start = time.perf_counter()
        records = gather_lists(run_together(lambda: self._answer_batch(batch)))
        seconds = (time.perf_counter() - start) / max(len(records), 1)
        written = [{**record, "seconds": round(seconds, 6)} for record in records]
        run_together(lambda: append_records(self.files.predictions, written) if find_rank() == 0 else None)
        return [(record["row"], record["num_tokens"]) for record in records]

    def _answer_batch(self, batch: list[int]) -> list[Record]:
        known = self.evaluation_set
        records: list[Record] = []
        for row, answer in self.backend.generate_batch(known.prompts, batch) if batch else ():
            reference = known.references[row]
            records.append(
                {
                    "row": row,
                    "id": known.ids[row],
                    "prompt": self.tokenizer.decode(known.prompts[row]),
                    "prediction": answer.text,
                    "references": [reference] if isinstance(reference, str) else reference,
                    "num_tokens": answer.num_tokens,
                    "finished": answer.finished,
                }
            )
        score_records(records, known)
        return records


def _open_files(files: SetFiles, identity: dict[str, Any], known: EvaluationSet) -> SetScore | set[int]:
    """Find the score, or the rows, that an earlier call of the same identity has left; clear away another's."""
    files.folder.mkdir(parents=True, exist_ok=True)
    before = read_object(files.identity)
    for path in (files.results, files.predictions) if before is None else ():
        if path.exists():
            raise UserError(f"{files.folder}: holds {path.name} of something else; evaluate into another folder")
    if before == identity:
        score = _read_score(files, known)
        if score is not None:
            return score
        rows = {int(record["row"]) for _, record in scan_records(files.predictions)}
        if rows:
            logger.info("%s: going on behind %d answers of an earlier call", files.folder, len(rows))
        return rows
    if before is not None:
        changed = " and ".join(key for key in identity if before.get(key) != identity[key])
        logger.warning("%s: starting anew, since an earlier call had other %s", files.folder, changed)
    for path in (files.results, files.predictions):
        path.unlink(missing_ok=True)
    write_object(files.identity, identity)
    return set()


def _read_score(files: SetFiles, known: EvaluationSet) -> SetScore | None:
    """Read the score of a set that is done and described as it is now; None: it is to be made."""
    data = read_object(files.results)
    if data is None or not files.predictions.exists():
        return None
    score = SetScore.from_dict(data)
    names = [load_metric(name).name for name in known.metrics]
    same = list(score.metrics) == names and score.n == len(known.prompts)
    described = describe_set(known)
    return score if same and all(getattr(score, name) == value for name, value in described.items()) else None


def _finish(files: SetFiles, known: EvaluationSet, identity: dict[str, Any], rescored: set[int]) -> SetScore:
    """Put all records in the order of the set, and write both files whole; little of them is held at once.

    Args:
        files: Where they are.
        known: The set.
        identity: See `build_identity`.
        rescored: Rows of an earlier call, which are scored again by the metrics of this one.
    """
    places = {int(record["row"]): place for place, record in scan_records(files.predictions)}
    summary = Summary(known, identity)

    def resolve() -> Iterator[Record]:
        rows = sorted(places)
        for start in range(0, len(rows), _CHUNK):
            chunk = [places[row] for row in rows[start : start + _CHUNK]]
            records = list(read_at(files.predictions, chunk))
            score_records([record for record in records if record["row"] in rescored], known)
            for record in records:
                summary.add(record)
                yield record

    write_records(files.predictions, resolve())
    score = summary.close()
    write_object(files.results, {"version": 1, **score.to_dict()})
    return score
