"""Evaluate a reward model: how often a pair's chosen answer has the larger reward, and each pair's rewards."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from utils.config.sections.dataset import InstructionSection
from utils.core.errors import DataError
from utils.core.texts import RowError
from utils.data.dataset import describe_instructions
from utils.data.instruction import GenerationRows, load_generation_rows
from utils.data.preference import as_pairs
from utils.data.preference_encoding import EncodedPair, PairEncoder
from utils.evaluate_model.folders import Entry, log_difference, log_reused, open_result_folder, write_facts
from utils.evaluation.describing import DescribedSet, describe_sets
from utils.evaluation.files import IDENTITY, PREDICTIONS, RESULTS, write_object, write_records
from utils.evaluation.identity import hash_json, hash_model
from utils.generation.classification import TextClassifier
from utils.generation.model_state import place_model
from utils.metrics.bootstrap import wilson_interval
from utils.modeling.head import build_head_spec
from utils.results.json_file import write_json
from utils.tasks.sft.section import build_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.evaluate_model.evaluated_model import EvaluatedModel, Job

logger = logging.getLogger(__name__)

_OWN = "validation"


@dataclass(frozen=True)
class _Pairs:
    """One set of encoded pairs."""

    described: DescribedSet
    rows: GenerationRows
    places: list[int]
    """Indices of the rows whose pairs can be scored."""
    texts: list[list[int]]
    """Chosen and rejected answers, alternating."""
    max_length: int


def evaluate_reward_model(evaluated: EvaluatedModel) -> list[Entry]:
    """Score a reward model on the validation pairs of its run, or on the named sets."""
    tokenizer = evaluated.model.load_tokenizer()
    sets = [each for job in evaluated.jobs for each in _load_sets(job, tokenizer)]
    for each in sets:
        logger.info("%s: %d of %d pairs", each.described.label, len(each.places), each.rows.num_total)
    model = place_model(evaluated.load_model(tokenizer, build_head_spec(())))
    return [_evaluate(evaluated, model, tokenizer, each) for each in sets]


def _load_sets(job: Job, tokenizer: PreTrainedTokenizerBase) -> Iterator[_Pairs]:
    config: Any = job.config
    own, encoder = config.section(InstructionSection), build_encoder(config, tokenizer, PairEncoder)
    evaluation = config.evaluation.model_copy(update={"sets": job.sections and list(job.sections)})
    for each in describe_sets(evaluation, describe_instructions(own), own):
        described = replace(each, label=_OWN) if job.sections is None else each
        whole = own.max_eval_samples if job.sections is None else None  # a named file is scored whole
        limit = described.max_samples or job.max_eval_samples or whole
        spec = as_pairs(described.spec, getattr(described.section, "roles", {}))
        rows = load_generation_rows(spec, described.section.model_copy(update={"max_eval_samples": limit}), config.seed)
        encoded = list(zip(range(len(rows.examples)), encoder.encode_many(rows.examples), strict=True))
        usable = [
            (place, pair)
            for place, found in encoded
            if not isinstance(found, RowError)
            and isinstance(pair := found[-1], EncodedPair)
            and pair.is_usable
            and not pair.too_long
        ]
        if not usable:
            raise DataError(f"{described.label}: none of {len(encoded)} pairs can be scored")
        if lost := len(encoded) - len(usable):
            reasons = f"too long ({encoder.length_key}), without an answer, or refused by the chat template"
            logger.warning("%s: %d pairs are left out: %s", described.label, lost, reasons)
        texts = [ids for _, pair in usable for ids in (pair.input_ids, [*pair.rejected_ids])]
        yield _Pairs(described, rows, [place for place, _ in usable], texts, encoder.max_length)


def _evaluate(
    evaluated: EvaluatedModel, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: _Pairs
) -> Entry:
    started, label = datetime.now(timezone.utc), pairs.described.label
    folder = evaluated.folder_of(label)
    identity = {"rows": hash_json(pairs.texts), "model": hash_model(model)}
    earlier = open_result_folder(folder, identity)
    if earlier.same is not None:
        log_reused(folder)
    else:
        begun = time.monotonic()
        classifier = TextClassifier(model, tokenizer, (), pairs.max_length)
        found = {row: each[0] for batch in classifier.run_encoded({"input_ids": pairs.texts}) for row, each in batch}
        rewards = [(found[2 * pair], found[2 * pair + 1]) for pair in range(len(pairs.places))]
        folder.mkdir(parents=True, exist_ok=True)
        write_object(folder / IDENTITY, identity)
        write_records(folder / PREDICTIONS, list(_list_answers(pairs, rewards)))
        described = _describe(pairs, rewards) | {"seconds": time.monotonic() - begun, "identity": identity}
        write_json(folder / RESULTS, described)
    result = write_facts(folder, evaluated, earlier, started)
    difference = None if earlier.same is not None else _compare(evaluated, result, pairs)
    return Entry(label, folder, result, tuple(result["metrics"]), earlier.same is not None, difference)


def _list_answers(pairs: _Pairs, rewards: Sequence[tuple[float, float]]) -> Iterator[dict[str, Any]]:
    for place, (chosen, rejected) in zip(pairs.places, rewards, strict=True):
        example = pairs.rows.examples[place]
        assert example.rejected is not None, "of a pair"
        texts = {"chosen": example.reference, "rejected": example.rejected.reference}
        better = "equal" if chosen == rejected else "chosen" if chosen > rejected else "rejected"
        rewarded = {"reward_chosen": chosen, "reward_rejected": rejected}
        yield {"row": place, "question": example.question, **texts, **rewarded, "label": "chosen", "prediction": better}


def _describe(pairs: _Pairs, rewards: Sequence[tuple[float, float]]) -> dict[str, Any]:
    count, spec = len(rewards), pairs.described.spec
    chosen, rejected = (sum(side) / count for side in zip(*rewards, strict=True))
    accuracy = sum(one > other for one, other in rewards) + 0.5 * sum(one == other for one, other in rewards)
    accuracy /= count
    return {
        "version": 1,
        "label": pairs.described.label,
        "metrics": {
            "accuracy": accuracy,
            "margin": chosen - rejected,
            "mean_reward": (chosen + rejected) / 2,
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
        },
        "interval": {"accuracy": list(wilson_interval(accuracy, count))},
        "baseline": {"accuracy": 0.5},
        "n": count,
        "num_total": pairs.rows.num_total,
        "partial": count < pairs.rows.num_total,
        "protocol": f"pairs of answers, at most {pairs.max_length} tokens",
        "dataset": {"path": spec.path, "subset": spec.subset, "split": pairs.rows.split},
        "fingerprint": pairs.rows.fingerprint,
    }


def _compare(evaluated: EvaluatedModel, result: dict[str, Any], pairs: _Pairs) -> float | None:
    """Compare the accuracy with the run's own on its validation pairs."""
    record = evaluated.record
    if record is None or result["label"] != _OWN or "accuracy" not in record.metrics:
        return None
    differ = None if record.data.eval_rows == len(pairs.places) else "the rows differ"
    return log_difference(result, "accuracy", record.metrics["accuracy"], "the run's own record", differ)
