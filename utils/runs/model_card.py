"""The model's card, README.md beside its weights: what it was made from and by, what it scored, how it is loaded.

Its head is the hub's metadata, eval results among them, so that the hub lists the scores. Everything in it was measured
or configured; paths of this machine, rows and provenance stay out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.saved_adapter import ADAPTER_CONFIG
from utils.config.run_config import RunConfig
from utils.config.sections.model import is_local
from utils.core.project import VERSION, as_called
from utils.data.dataset import load_dataset_plugin
from utils.results.json_file import replace_file
from utils.results.labels import is_score
from utils.results.provenance import list_versions
from utils.results.record import RunRecord
from utils.results.table import show_value
from utils.tasks.task import load_task

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"
_FACTS = (
    "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay",
    "bf16", "fp16",
)  # fmt: skip
_VERSIONS = ("lora-ns", "torch", "transformers", "peft", "trl")
_AUTO = {"text-classification": "AutoModelForSequenceClassification", "text-generation": "AutoModelForCausalLM"}


def write_card(folder: Path, config: RunConfig, record: RunRecord) -> None:
    """Write the card into a folder of weights: an adapter's, or a whole model's."""
    with replace_file(folder / CARD) as beside:
        beside.write_text(build_card(config, record, not (folder / ADAPTER_CONFIG).is_file()), encoding="utf-8")


def build_card(config: RunConfig, record: RunRecord, whole: bool) -> str:
    """Write the card of a whole model, or of an adapter."""
    base, dataset = _name_base(config), _name_dataset(config)
    head = _build_metadata(config, record, whole, dataset)
    name = base or f"a local model ({Path(config.model.name_or_path).name})"
    way = "trained as a whole" if config.peft.method == "none" else f"fine-tuned with `{config.peft.method}`"
    method = {key: value for key, value in config.peft.model_dump(exclude_defaults=True).items() if _is_shown(value)}
    sections = [
        f"---\n{head}\n---\n\n# {config.task_name}\n",
        f"{name}, {way} on {dataset or 'rows that are not public'} by lora-ns {VERSION}.\n",
        _table(["metric", "value", "95 % interval", "protocol"], list_scores(record)),
        f"## How to load it\n\n{_write_loading(config, base, whole)}",
        "## Training\n",
        _table(["setting", "value"], [*_list_settings(config), *_list_costs(record)]),
        f"Method: `{method}`\n" if method else "",
    ]
    return "\n".join(each for each in sections if each)


def _build_metadata(config: RunConfig, record: RunRecord, whole: bool, dataset: str | None) -> str:
    from huggingface_hub import ModelCardData

    tags = ["lora-ns", *([] if config.peft.method == "none" else [config.peft.method])]
    pipeline = load_task(config.task).PIPELINE
    facts = ModelCardData(
        base_model=_name_base(config),
        datasets=None if dataset is None or "/" not in dataset else [dataset],
        library_name="transformers" if whole else "peft",
        pipeline_tag=pipeline,
        tags=tags,
        model_name=config.task_name,
        eval_results=list(_list_results(record, pipeline, dataset or "rows that are not public")) or None,
    )
    written: str = facts.to_yaml()
    return written


def _list_results(record: RunRecord, pipeline: str, dataset: str) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    scored = _find_sets(record) or {"": dict(record.metrics)}
    for label, scores in scored.items():
        for metric in (name for name in _scored_metrics(scores) if name != "loss"):
            yield EvalResult(
                task_type=pipeline,
                dataset_type=label or dataset,
                dataset_name=label or dataset,
                metric_type=metric,
                metric_value=round(float(scores[metric]), 6),
                metric_args={"protocol": scores["protocol"]} if "protocol" in scores else None,
            )


def _scored_metrics(scores: Mapping[str, Any]) -> list[str]:
    """Name the metrics among what is kept of a set's scores."""
    known = scores.get("num_scored", scores)
    return [name for name in known if isinstance(scores.get(name), (int, float))]


def _find_sets(record: RunRecord) -> dict[str, dict[str, Any]]:
    """Give what was scored by evaluation set, without the sum over them."""
    return {label: scores for label, scores in record.evaluation.items() if label != "combined"}


def list_scores(record: RunRecord) -> list[list[str]]:
    """List every set's metrics, x100 where they are shares, with interval and protocol."""
    sets = _find_sets(record) or {"": {**record.metrics, "interval": record.interval}}
    rows = []
    for label, scores in sets.items():
        for metric in _scored_metrics({key: value for key, value in scores.items() if key != "interval"}):
            low_high = [show_value(metric, each) for each in scores.get("interval", {}).get(metric, ())]
            name = f"{label} {metric}".strip() + (" x100" if is_score(metric) else "")
            partial = " (a part of the rows)" if scores.get("partial") else ""
            rows.append(
                [
                    name,
                    show_value(metric, scores[metric]),
                    " .. ".join(low_high),
                    f"{scores.get('protocol', '')}{partial}",
                ]
            )
    return rows


def _list_settings(config: RunConfig) -> list[list[str]]:
    written = {name: config.arguments[name] for name in _FACTS if config.arguments.get(name) not in (None, False, -1)}
    quantization = config.model.quantization
    kept = {"seed": config.seed, "base in": quantization.type if quantization else config.model.dtype, **written}
    return [[name, str(value)] for name, value in kept.items()]


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


def _write_loading(config: RunConfig, base: str | None, whole: bool) -> str:
    auto = _AUTO.get(load_task(config.task).PIPELINE, "AutoModel")
    named = base or "BASE"
    ours = as_called('python inference.py --run FOLDER --input_text "..."') + "   # FOLDER: a copy of this repository"
    serve = ""
    if whole:
        lines = [f"from transformers import {auto}", "", f'model = {auto}.from_pretrained("FOLDER")']
    else:
        lines = ["from peft import PeftModel", f"from transformers import {auto}", ""]
        labels = ", num_labels=..." if "Sequence" in auto else ""
        lines += [
            f'base = {auto}.from_pretrained("{named}"{labels})',
            'model = PeftModel.from_pretrained(base, "FOLDER")',
        ]
    if auto == "AutoModelForCausalLM" and (whole or config.peft.method == "lora"):
        options = "FOLDER" if whole else f"{named} --enable-lora --lora-modules tuned=FOLDER"
        serve = f"```bash\nvllm serve {options}\n```\n"
    if not whole and config.peft.method == "qst":  # peft knows the method only once it is imported
        lines = []
    code = "```python\n" + "\n".join(lines) + "\n```\n\n" if lines else ""
    return f"{code}{serve}```bash\n{ours}\n```\n"


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Write a table without the columns that no row fills."""
    if not rows:
        return ""
    filled = [index for index in range(len(header)) if any(row[index] for row in rows)]
    lines = [[each[index].replace("|", "\\|") for index in filled] for each in (header, ["---"] * len(header), *rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _name_base(config: RunConfig) -> str | None:
    """Name the base by its hub id; None: it is a folder of this machine."""
    name = config.model.name_or_path
    return None if is_local(name) else name


def _name_dataset(config: RunConfig) -> str | None:
    """Name the rows by their hub id or set; None: they are files of this machine."""
    section = config.dataset
    path = getattr(section, "path", None)
    subset = getattr(section, "subset", None)
    if path is not None and is_local(path):
        return None
    hub_names = getattr(load_dataset_plugin(section.name), "HUB_NAMES", ())
    named = path or (hub_names[0] if hub_names else section.name)
    return None if named == "custom" else f"{named}{f' {subset}' if subset and '/' not in named else ''}"


def _is_shown(value: Any) -> bool:
    """Tell whether a setting may be shown: no path of this machine."""
    return value is not None and not (isinstance(value, str) and value.startswith(("/", "~", ".")))
