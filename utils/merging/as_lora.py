"""Convert an adapter into a LoRA of a given rank, verify the files, and measure what the rank loses."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from utils.adapters.adapter import load_adapter
from utils.config.run_config import EXTENSIONS, RunConfig
from utils.core.errors import UserError
from utils.merging.conversion import Converted, convert, put_in_place
from utils.merging.merging import MergeOptions
from utils.merging.output import check_output, open_output, require_space
from utils.merging.report import note_score, render_rows
from utils.merging.source import describe_source, name_dtype, open_comparison, release_memory
from utils.merging.weights import place, switched_off
from utils.modeling.head import LABELS_FILE
from utils.modeling.source import resolved_commit
from utils.modeling.verify import prove_converted
from utils.results.json_file import write_json
from utils.results.provenance import collect_provenance
from utils.runs.model_card import Conversion, write_conversion_card
from utils.runs.model_ref import TrainedModel
from utils.runs.probe_record import compare_with_record
from utils.tasks.probe import Answers, Probe, check_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPORT_FILE = "lora_report.json"
"""Report of the verification and the loss."""
_LOSSLESS = 0.999


def convert_adapter(source: TrainedModel, output: str, rank: int, options: MergeOptions) -> dict[str, Any]:
    """Convert an adapter; the output gets its name only when it is verified. Only one model is in memory at a time.

    The output has the layout of a run's `final_model/`, with method lora. Returns the content of lora_report.json.

    Raises:
        UserError: The output cannot be written, the base is unavailable, or a layer is smaller than the rank.
        ModelError: peft cannot convert this adapter.
        CheckError: The files differ from the computed LoRA; they are removed.
    """
    started = datetime.now(timezone.utc)
    target = check_output(output, options.overwrite, [source.weights, source.run or source.weights])
    with open_output(target) as folder:
        tokenizer = source.load_tokenizer()
        probe = open_comparison(source, tokenizer, options.num_eval)
        report = {"version": 1, "output": str(target)}
        report |= _convert_and_prove(source, probe, tokenizer, folder, rank, options.dtype)
        report["provenance"] = collect_provenance(started=started, ended=datetime.now(timezone.utc))
        write_json(folder / REPORT_FILE, report)
        _write_card(source, report, folder)
    return report


def show_conversion(report: Mapping[str, Any]) -> None:
    """Print the table on standard output."""
    from utils.core.terminal import build_console

    scores = report["scores"]
    rows = [
        ("adapter on its base", None, scores["adapter"]),
        (f"LoRA of rank {report['rank']}, read back", report["probe"], scores["lora"]),
    ]
    title = f"{report['output']} ({report['num_parameters']:,} parameters, {report['size_bytes'] / 2**20:.1f} MiB)"
    build_console().print(render_rows(title, rows, scores["names"], _list_notes(report)))


def _convert_and_prove(
    source: TrainedModel, probe: Probe, tokenizer: PreTrainedTokenizerBase, folder: Path, rank: int, dtype: str
) -> dict[str, Any]:
    model: Any = place(source.load_unquantized(tokenizer, dtype))
    trained, computed_in, measured = probe.answer(model), name_dtype(model), None
    if source.config.model.quantization is None:
        measured = compare_with_record(source, probe, tokenizer, trained.logits, computed_in)
    converted, commit = convert(model, rank), resolved_commit(model)
    size = _write(source, converted, tokenizer, folder)
    with switched_off(model):
        without = probe.compute_logits(model)
        in_place = {step: probe.compute_logits(model) for step in put_in_place(model, converted)}
    del model
    release_memory()
    found = _read_back(source, converted, probe, tokenizer, folder, dtype)
    proof = prove_converted(
        trained.logits, without, in_place["whole"], in_place["converted"], found.logits, computed_in
    )
    return {
        "rank": converted.config.r,
        "source": describe_source(source, commit),
        "dtype": computed_in,
        "size_bytes": size,
        "num_parameters": sum(each.numel() for each in converted.tensors.values()),
        "kept": converted.kept,
        "probe": {"rows": probe.num_rows, "source": probe.rows, **proof},
        "as_measured": measured,
        "scores": {
            "rows": probe.num_scored,
            "source": probe.scored,
            "names": list(trained.score or ()),
            "adapter": trained.score,
            "lora": found.score,
        },
    }


def _write_card(source: TrainedModel, report: Mapping[str, Any], folder: Path) -> None:
    probe, kept = report["probe"], report["kept"]
    facts = {
        "rank": report["rank"],
        "share of the adapter's update": f"{kept['share']:.2%}",
        "compared with the adapter": f"{probe['rows']} rows, after reading the files back",
        "largest difference of a logit": f"{probe['largest_difference']:.2g} (the largest is "
        f"{probe['largest_logit']:.3g})",
        "same top-1 answer": None if probe["top1_agreement"] is None else f"{probe['top1_agreement']:.1%}",
    }
    made = Conversion("adapter", "after converting", f"converted into a LoRA of rank {report['rank']}", facts)
    write_conversion_card(folder, source, made, report["scores"]["lora"], report["scores"]["rows"], holds=False)


def _build_config(source: TrainedModel, converted: Converted) -> RunConfig:
    """Return the run's configuration with a `peft:` section of the written LoRA."""
    made, kind = converted.config, cast("Any", load_adapter("lora").Config)
    section = kind(
        method="lora",
        lora_r=made.r,
        lora_alpha=made.lora_alpha,
        target_modules=sorted(made.target_modules or ()),
        modules_to_save=sorted(made.modules_to_save or ()) or None,
        rank_pattern=made.rank_pattern,
        alpha_pattern=made.alpha_pattern,
    )
    return replace(source.config, peft=section)


def _write(source: TrainedModel, converted: Converted, tokenizer: PreTrainedTokenizerBase, folder: Path) -> int:
    """Write the adapter with the other files of a run's folder; return the size of the weights in bytes."""
    from safetensors.torch import save_file

    tensors = {key: each.cpu() for key, each in converted.tensors.items()}
    size: int = sum(each.numel() * each.element_size() for each in tensors.values())
    require_space(folder, size)
    try:
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        converted.config.save_pretrained(str(folder))
        tokenizer.save_pretrained(folder)
        (folder / "run.yaml").write_text(_build_config(source, converted).to_yaml(in_run=True), encoding="utf-8")
        for each in filter(None, (source.weights, source.run)):
            if (each / LABELS_FILE).is_file():
                shutil.copyfile(each / LABELS_FILE, folder / LABELS_FILE)
            if (each / EXTENSIONS).is_dir():
                shutil.copytree(each / EXTENSIONS, folder / EXTENSIONS, dirs_exist_ok=True)
    except (OSError, UnicodeEncodeError) as error:  # for a file name that is not valid UTF-8
        raise UserError(f"{folder}: cannot be written: {error}") from None
    return size


def _read_back(
    source: TrainedModel,
    converted: Converted,
    probe: Probe,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: str,
) -> Answers:
    """Load the written files on a fresh base with peft, and compute answers."""
    config = _build_config(source, converted)
    read = replace(source, weights=folder, config=config, name=str(folder), run=None)
    check_tokenizer(probe, tokenizer, read.load_tokenizer())
    return probe.answer(place(read.load_unquantized(tokenizer, dtype)))


def _list_notes(report: Mapping[str, Any]) -> list[str]:
    probe, kept, reread = report["probe"], report["kept"], report["probe"]["reread"]
    share = probe["update_kept"]
    effect = "" if share is None else f"; {share:.1%} of the adapter's effect on them is kept"
    held = f"rank {report['rank']} holds {kept['share']:.2%} of the adapter's update"
    if kept["share"] < _LOSSLESS:
        held += f" ({kept['least']:.1%} in {kept['layer']}, the least); a higher rank keeps more"
    return [
        held,
        f"logits of {probe['rows']} rows ({probe['source']}), the largest {probe['largest_logit']:.3g}{effect}",
        f"what was written is what was computed: read back, logits differ by {reread['largest_difference']:.2g} from "
        f"the base with the low-rank updates in its weights; rounding in {report['dtype']} explains "
        f"{reread['tolerance']:.2g}",
        note_score(report["scores"]),
    ]
