"""The model card, README.md beside the weights: how the model was made, what it scored, and how to load it.

It starts with the hub's metadata, including eval results, so that the hub lists the scores. Everything in it was
measured or configured; local paths, rows and provenance are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from utils.adapters.saved_adapter import ADAPTER_CONFIG
from utils.config.run_config import RunConfig
from utils.config.sections.model import is_local
from utils.core.project import VERSION, as_called
from utils.core.replace_file import replace_text
from utils.data import row_files
from utils.data.dataset import load_dataset_plugin
from utils.modeling.head import find_label_file, read_label_names
from utils.results.labels import is_score
from utils.results.provenance import list_versions
from utils.results.record import RunRecord, read_record
from utils.results.table import show_value
from utils.runs.model_ref import TrainedModel
from utils.tasks.task import load_task

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"
PLACE = "THIS_REPOSITORY"
"""Placeholder in a card's code for the location of the files."""
_PLACE_NOTE = f"`{PLACE}` is its name on the hub, or a folder with its files."
_FACTS = (
    "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay",
    "bf16", "fp16",
)  # fmt: skip
_SIZES = {"lora_r", "lora_alpha", "lora_dropout", "r", "alpha", "num_virtual_tokens", "target_modules"}
"""Settings of a method that are shown even if they are the default."""
_VERSIONS = ("lora-ns", "torch", "transformers", "peft", "trl")
_AUTO = {"text-classification": "AutoModelForSequenceClassification", "text-generation": "AutoModelForCausalLM"}


@dataclass(frozen=True)
class Conversion:
    """The conversion of a trained model, for its card."""

    kind: Literal["adapter", "whole", "gguf"]
    """How its files are loaded."""
    done: str
    """When the scores were measured: `after merging`."""
    way: str
    """The conversion as a clause: `the adapter merged into the weights`."""
    facts: Mapping[str, Any]
    """Facts for a table; None values are left out."""
    file: str = ""
    """Name of the file of a gguf."""

    @property
    def rows(self) -> list[list[str]]:
        """Rows of the table of facts."""
        return [[name, str(value)] for name, value in self.facts.items() if value is not None]


def write_card(folder: Path, config: RunConfig, record: RunRecord) -> None:
    """Write the card into a folder with an adapter or a whole model."""
    file = find_label_file(folder)
    labels = read_label_names(file) if file else ()
    replace_text(
        folder / CARD, build_card(config, record, not (folder / ADAPTER_CONFIG).is_file(), num_labels=len(labels))
    )


def write_conversion_card(
    folder: Path, source: TrainedModel, made: Conversion, scores: Mapping[str, Any] | None, num_rows: int, holds: bool
) -> None:
    """Write the card of a converted model.

    `scores` are those of the converted model by metric, on `num_rows` rows; None without rows. With `holds` the run's
    own measurements apply too: the models differ only by rounding.
    """
    config = source.config
    found = read_record(source.run) if source.run is not None else None
    blank = RunRecord("success", config.task_name, config.task_type, config.peft.method, seed=config.seed)
    record = replace(found or blank, reload_check={})
    if not (found and holds and source.weights.name == "final_model"):
        own = dict(scores or {})
        protocol = f"{num_rows} rows, {made.done}"
        measured = {**own, "num_scored": dict.fromkeys(own, num_rows), "protocol": protocol}
        label = "probe rows" if source.generates else "validation"
        record = replace(record, metrics={}, interval={}, evaluation={label: measured} if own else {})
    replace_text(
        folder / CARD, build_card(config, record, made.kind != "adapter", num_labels=len(source.label_names), made=made)
    )


def build_card(
    config: RunConfig,
    record: RunRecord,
    whole: bool,
    *,
    num_labels: int = 0,
    made: Conversion | None = None,
) -> str:
    """Write the card of a whole model or an adapter, as the hub shows it.

    Its code has `PLACE` for the repository's name, which `name_place` fills in.

    Scores come from the record alone. `num_labels` is that of a classifier's adapter; 0: unknown, or a regression.
    `made` is a conversion after the training.
    """
    base, dataset = _name_base(config), _name_dataset(config)
    library = "gguf" if made and made.kind == "gguf" else "transformers" if whole else "peft"
    head = _build_metadata(config, record, library, dataset)
    chosen = {*config.peft.model_dump(exclude_defaults=True), *_SIZES} - {"method", "adapter_path"}
    method = {name: value for name, value in config.peft.model_dump().items() if name in chosen and _is_shown(value)}
    sections = [
        f"---\n{head}\n---\n\n# {_as_text(config.task_name)}\n",
        f"{_describe(config, base, dataset, made)}\n",
        _table(["metric", "value", "95 % interval", "protocol"], list_scores(record)),
        *(["## How it was made\n", _table(["", ""], made.rows)] if made else []),
        f"## How to load it\n\n{_PLACE_NOTE}\n\n{_write_loading(config, base, whole, num_labels, made)}",
        "## Training\n",
        _table(["setting", "value"], [*_list_settings(config), *_list_costs(record)]),
        f"Method `{config.peft.method}`: `{method}`\n" if method else "",
    ]
    return "\n".join(each for each in sections if each)


def name_place(card: str, repo: str) -> str:
    """Fill the repository's name into a card."""
    return card.replace(f"{_PLACE_NOTE}\n\n", "").replace(f"--run {PLACE}", f"--run hub:{repo}").replace(PLACE, repo)


def _describe(config: RunConfig, base: str | None, dataset: str | None, made: Conversion | None) -> str:
    name = base or f"a local model ({Path(config.model.name_or_path).name})"
    way = "trained as a whole" if config.peft.method == "none" else f"fine-tuned with `{config.peft.method}`"
    then = f", {made.way}" if made else ""
    return f"{name}, {way} on {dataset or 'rows that are not public'} by lora-ns {VERSION}{then}."


def _build_metadata(config: RunConfig, record: RunRecord, library: str, dataset: str | None) -> str:
    from huggingface_hub import ModelCardData

    tags = ["lora-ns", *([] if config.peft.method == "none" else [config.peft.method])]
    pipeline = load_task(config.task).PIPELINE
    facts = ModelCardData(
        base_model=(base := _name_base(config)),
        base_model_relation=base and ("adapter" if library == "peft" else "finetune"),
        datasets=None if dataset is None or "/" not in dataset else [dataset],
        library_name=library,
        pipeline_tag=pipeline,
        tags=tags,
        model_name=config.task_name,
        eval_results=list(_list_results(record, pipeline, dataset or "rows that are not public")) or None,
    )
    written: str = facts.to_yaml()
    return written


def _list_results(record: RunRecord, pipeline: str, dataset: str) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    scored = _find_sets(record) or {"": {**record.metrics, "interval": record.interval}}
    for label, scores in scored.items():
        for metric in (name for name in _scored_metrics(scores) if name != "loss"):
            yield EvalResult(
                task_type=pipeline,
                dataset_type=label or dataset,
                dataset_name=label or dataset,
                metric_type=metric,
                metric_value=round(float(scores[metric]), 6),
                metric_args=_describe_measuring(metric, scores) or None,
            )


def _describe_measuring(metric: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the protocol of a score, its number of rows, and its interval."""
    known: dict[str, Any] = {
        "protocol": scores.get("protocol"),
        "num_rows": scores.get("num_scored", {}).get(metric),
        "interval_95": [round(each, 6) for each in scores.get("interval", {}).get(metric, ())] or None,
    }
    return {key: value for key, value in known.items() if value is not None}


def _scored_metrics(scores: Mapping[str, Any]) -> list[str]:
    """Return the names of the metrics among a set's scores."""
    known = scores.get("num_scored", scores)
    return [name for name in known if isinstance(scores.get(name), (int, float))]


def _find_sets(record: RunRecord) -> dict[str, dict[str, Any]]:
    """Return the scores by evaluation set, without the sum over them."""
    return {label: scores for label, scores in record.evaluation.items() if label != "combined"}


def list_scores(record: RunRecord) -> list[list[str]]:
    """List every set's metrics, x100 if they are shares, with interval and protocol."""
    sets = _find_sets(record) or {"": {**record.metrics, "interval": record.interval}}
    rows = []
    for label, scores in sets.items():
        for metric in _scored_metrics({key: value for key, value in scores.items() if key != "interval"}):
            low_high = [show_value(metric, each) for each in scores.get("interval", {}).get(metric, ())]
            name = f"{label} {metric}".strip() + (" x100" if is_score(metric) else "")
            partial = " (a part of the rows)" if scores.get("partial") else ""
            value, protocol = show_value(metric, scores[metric]), f"{scores.get('protocol', '')}{partial}"
            rows.append([name, value, " .. ".join(low_high), protocol])
    return rows


def _list_settings(config: RunConfig) -> list[list[str]]:
    written = {name: config.arguments[name] for name in _FACTS if config.arguments.get(name) not in (None, False, -1)}
    quantization = config.model.quantization
    stored = quantization.type if quantization else config.model.dtype
    kept = {"seed": config.seed, "base in": None if stored == "auto" else stored, **written}
    return [[name, str(value)] for name, value in kept.items() if value is not None]


def _list_costs(record: RunRecord) -> list[list[str]]:
    versions = list_versions()
    costs: dict[str, Any] = {
        "trained parameters": None if record.params.trainable is None else f"{record.params.trainable:,}",
        "training rows": record.data.train_rows,
        "training time (s)": record.time.train_runtime_s,
        "peak GPU memory (GB)": record.memory.peak_vram_gb,
        "read back and compared": f"{rows} rows" if (rows := record.reload_check.get("rows")) else None,
        "versions": ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if name in versions),
    }
    shown = {name: round(value, 2) if isinstance(value, float) else value for name, value in costs.items()}
    return [[name, str(value)] for name, value in shown.items() if value is not None]


def _write_loading(config: RunConfig, base: str | None, whole: bool, num_labels: int, made: Conversion | None) -> str:
    ours = as_called(f'python inference.py --run {PLACE} --input_text "..."')
    if made and made.kind == "gguf":
        ollama = "\nollama create NAME -f Modelfile   # in the folder with its files"
        return f"```bash\nllama-cli -m {made.file}{ollama}\n```\n"
    auto, named = _AUTO.get(load_task(config.task).PIPELINE, "AutoModel"), base or "BASE"
    if whole:
        lines = [f"from transformers import {auto}, AutoTokenizer", "", f'model = {auto}.from_pretrained("{PLACE}")']
    else:
        lines = ["from peft import PeftModel", f"from transformers import {auto}, AutoTokenizer", ""]
        labels = f", num_labels={num_labels or 1}" if "Sequence" in auto else ""
        lines += [
            f'base = {auto}.from_pretrained("{named}"{labels})',
            f'model = PeftModel.from_pretrained(base, "{PLACE}")',
        ]
    lines.append(f'tokenizer = AutoTokenizer.from_pretrained("{PLACE}")')
    options = PLACE if whole else f"{named} --enable-lora --lora-modules tuned={PLACE}"
    serves = auto == "AutoModelForCausalLM" and (whole or config.peft.method == "lora" or made is not None)
    serve = f"```bash\nvllm serve {options}\n```\n\n" if serves else ""
    if not whole and config.peft.method == "qst":  # peft knows the method only after its import
        lines = []
    code = "```python\n" + "\n".join(lines) + "\n```\n\n" if lines else ""
    return f"{code}{serve}```bash\n{ours}\n```\n"


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Write a table without columns that are empty in all rows."""
    if not rows:
        return ""
    filled = [index for index in range(len(header)) if any(row[index] for row in rows)]
    lines = [
        [_as_text(each[index]).replace("|", "\\|") for index in filled]
        for each in (header, ["---"] * len(header), *rows)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _as_text(given: str) -> str:
    """Escape names and values for Markdown: no tags or line breaks."""
    return " ".join(given.split()).replace("<", "&lt;")


def _name_base(config: RunConfig) -> str | None:
    """Return the hub id of the base; None: it is a local folder."""
    name = config.model.name_or_path
    return None if is_local(name) else name


def _name_dataset(config: RunConfig) -> str | None:
    """Return the hub id or name of the dataset; None: the rows are local files."""
    section = config.dataset
    path = getattr(section, "path", None)
    subset = getattr(section, "subset", None)
    if path is not None and row_files.is_local(path):
        return None
    hub_names = getattr(load_dataset_plugin(section.name), "HUB_NAMES", ())
    named = path or (hub_names[0] if hub_names else section.name)
    return None if named == "custom" else f"{named}{f' {subset}' if subset and '/' not in named else ''}"


def _is_shown(value: Any) -> bool:
    """Return whether a setting may be shown: not a local path."""
    return value not in (None, False, {}, []) and not (isinstance(value, str) and value.startswith(("/", "~", ".")))
