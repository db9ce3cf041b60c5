"""Merge an adapter into its base, write a plain model, and verify the files against the trained model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.run_config import EXTENSIONS
from utils.core.errors import CheckError, ModelError, UserError
from utils.merging.formats import describe_conversion, describe_cost, make_gguf, pack, require_possible
from utils.merging.output import REPORT_FILE, check_output, open_output, require_space
from utils.merging.report import describe_merge, render_report
from utils.merging.source import describe_source, name_dtype, open_comparison, release_memory
from utils.merging.weights import merge_weights, place, switched_off
from utils.modeling.source import resolved_commit
from utils.modeling.verify import describe_difference, prove_merged
from utils.modeling.writing import require_writable
from utils.results.json_file import write_json
from utils.results.provenance import collect_provenance
from utils.runs.model_card import write_conversion_card
from utils.runs.model_ref import TrainedModel
from utils.runs.open_model import MERGED_RUN, open_merged
from utils.runs.probe_record import compare_with_record
from utils.tasks.probe import Answers, Probe, check_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MergeOptions:
    """Options of a merged model's files."""

    dtype: str = "auto"
    """`auto`: the dtype the run's base is stored in, or bfloat16 if it was quantized."""
    max_shard_size: str = "5GB"
    """Maximum size of one weights file."""
    overwrite: bool = False
    """Rename an existing output."""
    num_eval: int = 256
    """Maximum number of rows to score a classifier on; 0: no score."""
    gguf_type: str | None = None
    """Write a GGUF file of this type instead of safetensors; None: no."""
    quantize: str | None = None
    """Quantize the weights: `nf4` or `int8`."""


@dataclass(frozen=True)
class _Merged:
    """Measurements of the merged model while it is in memory."""

    trained: Answers
    without: np.ndarray[Any, Any] | None
    dtype: str
    size_bytes: int
    num_parameters: int
    tied: bool | None
    """Whether the embeddings are still tied; None: the base's are not."""
    commit: str | None
    measured: dict[str, Any] | None
    """Difference of the adapter on its base from the run's record; None if the record is not comparable."""


def merge_adapter(source: TrainedModel, output: str, options: MergeOptions) -> dict[str, Any]:
    """Merge an adapter; the output gets its name only when it is verified. Only one model is in memory at a time.

    Returns the content of merge_report.json.

    Raises:
        UserError: The output cannot be written, or the base is unavailable.
        CheckError: The merged model is not the trained one; its files are removed.
    """
    started = datetime.now(timezone.utc)
    base = Path(source.config.model.location)
    target = check_output(output, options.overwrite, [source.weights, source.run or source.weights, base])
    with open_output(target) as folder:
        tokenizer = source.load_tokenizer()
        require_possible(source, tokenizer, options.gguf_type, options.quantize)
        probe = open_comparison(source, tokenizer, options.num_eval)
        as_trained, measured = _answer_as_trained(source, probe, tokenizer)
        merged = _merge_and_write(source, probe, tokenizer, folder, options)
        release_memory()
        found = _read_back(source, probe, tokenizer, folder)
        proof = prove_merged(merged.trained.logits, merged.without, found.logits, merged.dtype)
        report = {
            "version": 1,
            "output": str(target),
            "source": describe_source(source, merged.commit),
            **{name: getattr(merged, name) for name in ("dtype", "size_bytes", "num_parameters")},
            "tied_embeddings": merged.tied,
            "probe": {"rows": probe.num_rows, "source": probe.rows, **proof},
            "as_measured": measured or merged.measured,
            "scores": _describe_scores(probe, merged.trained, found),
            "as_trained": _compare_as_trained(source, as_trained, found),
            "provenance": collect_provenance(started=started, ended=datetime.now(timezone.utc)),
        }
        made, score = describe_merge(report), found.score
        release_memory()
        if options.gguf_type or options.quantize:
            answers, facts = _make(folder, target.name, source, tokenizer, probe, options)
            report["made"] = describe_cost(merged.trained, answers, facts, merged.dtype)
            made, score = describe_conversion(report, made), answers.score
        write_json(folder / REPORT_FILE, report)
        holds = "made" not in report and _holds(source, report)
        # a merged model is opened as a whole one, so this is its record of the training
        trained = open_merged(source.weights) if (source.weights / MERGED_RUN).is_file() else source
        write_conversion_card(folder, trained, made, score, probe.num_scored, holds)
    return report


def _make(
    folder: Path,
    stem: str,
    source: TrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    probe: Probe,
    options: MergeOptions,
) -> tuple[Answers, dict[str, Any]]:
    """Convert the merged model to the requested format; return its answers, and facts for the report."""
    if options.gguf_type is not None:
        return make_gguf(folder, stem, source, tokenizer, probe, options.gguf_type)
    assert options.quantize is not None, "one of both is asked for"
    return pack(folder, source, tokenizer, probe, options.quantize, options.max_shard_size)


def show_report(report: Mapping[str, Any]) -> None:
    """Print the table on standard output."""
    from utils.core.terminal import build_console

    build_console().print(render_report(report))


def _answer_as_trained(
    source: TrainedModel, probe: Probe, tokenizer: PreTrainedTokenizerBase
) -> tuple[Answers | None, dict[str, Any] | None]:
    """Compute the adapter's answers on the quantized base that it was trained on; None without one, or not here.

    Also returns their differences from the run's record.
    """
    if source.config.model.quantization is None:
        return None, None
    try:
        model = source.load_model(tokenizer)
        answers = probe.answer(model)
        return answers, compare_with_record(source, probe, tokenizer, answers.logits, name_dtype(model))
    except ModelError as error:
        logger.warning("the adapter cannot run on its quantized base here (%s); only the merge is verified", error)
        return None, None
    finally:
        release_memory()


def _merge_and_write(
    source: TrainedModel, probe: Probe, tokenizer: PreTrainedTokenizerBase, folder: Path, options: MergeOptions
) -> _Merged:
    model = place(source.load_unquantized(tokenizer, options.dtype))
    _restore_generation_config(source, model)
    require_writable(model, tokenizer)
    commit, trained, measured = resolved_commit(model), probe.answer(model), None
    if source.config.model.quantization is None:
        measured = compare_with_record(source, probe, tokenizer, trained.logits, name_dtype(model))
    with switched_off(model) as possible:
        without = probe.compute_logits(model) if possible else None
    merged, tied = merge_weights(source.config.peft.method, model) if source.is_adapter else (model, None)
    sizes = {id(each): (each.numel(), each.element_size()) for each in merged.parameters()}
    size_bytes = sum(count * width for count, width in sizes.values())
    require_space(folder, size_bytes)
    _write(source, merged, tokenizer, folder, options.max_shard_size)
    num_parameters = sum(count for count, _ in sizes.values())
    return _Merged(trained, without, name_dtype(merged), size_bytes, num_parameters, tied, commit, measured)


def _restore_generation_config(source: TrainedModel, model: Any) -> None:
    """Replace the base's generation settings by those saved with the adapter."""
    from transformers import GenerationConfig

    if source.is_adapter and (source.weights / "generation_config.json").is_file():
        model.get_base_model().generation_config = GenerationConfig.from_pretrained(
            source.weights, trust_remote_code=False
        )


def _write(
    source: TrainedModel, merged: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, shard: str
) -> None:
    from safetensors import SafetensorError

    try:
        merged.save_pretrained(folder, max_shard_size=shard)
        tokenizer.save_pretrained(folder)
        for each in (source.weights, source.run):
            own = [each / name for name in ("run.yaml", MERGED_RUN)] if each is not None else []
            if each is not None and (file := next(filter(Path.is_file, own), None)):
                shutil.copyfile(file, folder / MERGED_RUN)
                if (each / EXTENSIONS).is_dir():
                    shutil.copytree(each / EXTENSIONS, folder / EXTENSIONS)
        for each in filter(Path.is_file, folder.iterdir()):  # safetensors creates files readable by the owner only
            shutil.copymode(folder / "config.json", each)
    except (OSError, SafetensorError, UnicodeEncodeError) as error:  # for a file name that is not valid UTF-8
        raise UserError(f"{folder}: cannot be written: {error}") from None


def _read_back(source: TrainedModel, probe: Probe, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Answers:
    """Load the written model with plain transformers, as a user will, and compute answers."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    trust = source.config.model.trust_remote_code
    check_tokenizer(probe, tokenizer, AutoTokenizer.from_pretrained(folder, trust_remote_code=trust))
    auto = AutoModelForCausalLM if source.head is None else AutoModelForSequenceClassification
    model, info = auto.from_pretrained(folder, output_loading_info=True, use_safetensors=True, trust_remote_code=trust)
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if info[kind]:
            raise CheckError(f"the written model is incomplete: {kind.replace('_', ' ')} {sorted(info[kind])[:3]}")
    return probe.answer(place(model))


def _holds(source: TrainedModel, report: Mapping[str, Any]) -> bool:
    """Return whether the run's measurements apply to the merged model: they differ only by rounding."""
    same = report["probe"]["top1_agreement"] in (None, 1.0) and report["as_measured"] is not None
    return same and source.config.model.quantization is None


def _describe_scores(probe: Probe, trained: Answers, merged: Answers) -> dict[str, Any]:
    return {
        "rows": probe.num_scored,
        "source": probe.scored,
        "names": list(trained.score or ()),
        "adapter": trained.score,
        "merged": merged.score,
    }


def _compare_as_trained(source: TrainedModel, as_trained: Answers | None, merged: Answers) -> dict[str, Any] | None:
    quantization = source.config.model.quantization
    if as_trained is None or quantization is None:
        return None
    difference = describe_difference(as_trained.logits, merged.logits)
    return {"quantization": quantization.type, **difference, "score": as_trained.score}
