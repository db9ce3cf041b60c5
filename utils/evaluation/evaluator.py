"""Answer the prompts of a set, store the answers row by row, and score them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.sections.generation import GenerationSection
from utils.core.errors import UserError
from utils.core.progress import RowProgress
from utils.core.signals import interruption_requested, raise_if_interrupted
from utils.evaluation.files import (
    Record,
    SetFiles,
    append_records,
    read_at,
    read_object,
    scan_records,
    write_object,
    write_records,
)  # fmt: skip
from utils.evaluation.identity import hash_model, hash_rows
from utils.evaluation.processes import count_processes, find_rank, gather_lists, run_on_first, run_together
from utils.evaluation.score import SetScore, Summary, describe_asked, score_records
from utils.evaluation.sets import EvaluationSet
from utils.generation.backend import SERVER, GenerationBackend, Written, generate_batches, open_backend
from utils.generation.server import ServedModel
from utils.metrics.metric import load_metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_CHUNK = 64  # records in memory at once while a file is sorted


def evaluate_set(
    model: PreTrainedModel | ServedModel,
    tokenizer: PreTrainedTokenizerBase,
    evaluation_set: EvaluationSet,
    generation: GenerationSection,
    folder: Path | SetFiles,
    stop_token_ids: Sequence[int] = (),
) -> SetScore:
    """Answer a set's prompts and score the answers.

    Answers are written to `predictions.jsonl` batch by batch. A later call on the folder continues after them if
    prompts, references, settings and weights are the same, and otherwise starts anew with a warning. At the end the
    file is sorted into the order of the set, and `results.json` is written. All processes of a run call this together:
    each answers a share of the prompts, the first writes, and all return the score. A failure in one of them is raised
    in all. Answers are kept on disk, not in memory.

    The model may be in any mode and must be unwrapped, or a server's; the batch size may change between calls.

    Raises:
        DataError: A prompt is empty, or leaves the model no position for an answer.
        UserError: The folder holds results of something else, or another process failed.
    """
    files = folder if isinstance(folder, SetFiles) else SetFiles(folder)
    section = resolve_generation(generation, evaluation_set)
    identity = run_together(lambda: build_identity(model, evaluation_set, generation, stop_token_ids))
    found = run_on_first(lambda: _open_files(files, identity, evaluation_set))
    if isinstance(found, SetScore):
        return found
    stop, seed = evaluation_set.stop, evaluation_set.seed
    backend = run_together(lambda: open_backend(model, tokenizer, section, stop, stop_token_ids, seed=seed))
    _Work(backend, tokenizer, evaluation_set, files).answer(found)
    return run_on_first(lambda: _finish(files, evaluation_set, identity, rescored=found))


def build_identity(
    model: PreTrainedModel | ServedModel,
    known: EvaluationSet,
    generation: GenerationSection,
    stop_token_ids: Sequence[int],
) -> dict[str, Any]:
    """Return all that determines the answers, by part: the content of a folder's identity.json."""
    section = resolve_generation(generation, known)
    settings = section.answer_settings()
    if section.temperature > 0:
        settings["seed"] = known.seed
    settings["stop"] = sorted({*section.stop, *known.stop})
    if isinstance(model, ServedModel):
        settings["backend"] = SERVER
    return {
        "prompts": hash_rows(known.prompts, known.references),
        "generation": {**settings, "stop_token_ids": sorted(stop_token_ids)},
        "model": hash_model(model),
    }


def resolve_generation(generation: GenerationSection, known: EvaluationSet) -> GenerationSection:
    """Apply a set's own protocol to the run's settings: the length of answers, and whether they are sampled."""
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
    """The answering of one set."""

    backend: GenerationBackend
    tokenizer: PreTrainedTokenizerBase
    evaluation_set: EvaluationSet
    files: SetFiles

    def answer(self, answered: set[int]) -> None:
        """Answer the remaining rows in rounds, in which each process generates a batch and all are written to disk.

        Raises:
            Interrupted: A process was asked to stop.
        """
        prompts = self.evaluation_set.prompts
        run_together(lambda: self.backend.check_prompts(prompts))
        # Batches are those of the whole set, whatever is answered: rounding may depend on a row's neighbours.
        planned = self.backend.plan_batches(prompts)
        batches = [batch for batch in planned if not answered.issuperset(batch)]
        rank, step = find_rank(), count_processes()
        with (
            RowProgress(f"evaluating {self.evaluation_set.label}", lambda: len(prompts), len(answered)) as progress,
            closing(generate_batches(self.backend, prompts, batches[rank::step])) as mine,
        ):
            while (written := self._answer_round(mine, answered)) is not None:
                progress.advance(len(written), sum(num_tokens for _, num_tokens in written))

    def _answer_round(self, mine: Iterator[Written], answered: set[int]) -> list[tuple[int, int]] | None:
        """Let each process answer some rows, and write all; return rows with their token counts, None at the end."""
        if any(gather_lists([interruption_requested()])):
            raise_if_interrupted()  # earlier answers are on disk
        start = time.perf_counter()
        written = run_together(lambda: next(mine, None))
        if not any(gather_lists([written is not None])):
            return None
        new = [(row, answer) for row, answer in written or () if row not in answered]
        records = gather_lists(run_together(lambda: self._record(new)))
        seconds = (time.perf_counter() - start) / max(len(records), 1)
        timed = [{**record, "seconds": round(seconds, 6)} for record in records]
        run_on_first(lambda: append_records(self.files.predictions, timed))
        return [(record["row"], record["num_tokens"]) for record in records]

    def _record(self, written: Written) -> list[Record]:
        known = self.evaluation_set
        records: list[Record] = []
        for row, answer in written:
            reference = known.references[row]
            records.append(
                {
                    "row": row,
                    "id": known.ids[row],
                    **({"groups": known.groups[row]} if known.groups and known.groups[row] else {}),
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
    """Return the score, or the answered rows, of an earlier call of the same identity; remove another's."""
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
            logger.info("%s: continuing after %d answers of an earlier call", files.folder, len(rows))
        return rows
    if before is not None:
        changed = " and ".join(key for key in identity if before.get(key) != identity[key])
        logger.warning("%s: starting again, since an earlier call had other %s", files.folder, changed)
    for path in (files.results, files.predictions):
        path.unlink(missing_ok=True)
    write_object(files.identity, identity)
    return set()


def _read_score(files: SetFiles, known: EvaluationSet) -> SetScore | None:
    """Read the score of a finished set with the same description; None: it must be computed."""
    data = read_object(files.results)
    if data is None or not files.predictions.exists():
        return None
    score = SetScore.from_dict(data)
    names = [load_metric(name).name for name in known.metrics]
    same = list(score.metrics) == names and score.n * known.num_answers == len(known.prompts)
    described = describe_asked(known)
    return score if same and all(getattr(score, name) == value for name, value in described.items()) else None


def _finish(files: SetFiles, known: EvaluationSet, identity: dict[str, Any], rescored: set[int]) -> SetScore:
    """Sort all records into the order of the set, and write both files atomically, with few records in memory.

    Rows answered by an earlier call are scored again, as its metrics may differ.
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
