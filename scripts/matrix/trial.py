"""Try the cells of one family with one quantization, through the code that train.py and inference.py run."""

from __future__ import annotations

import json
import math
import re
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.matrix.families import save_family_base
from scripts.matrix.rows import Cell
from utils.core.errors import ConfigError, LoraNsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_STEPS = 3
"""If one factor starts at zero, the other gets its first gradient in the second step, and a gate in the third."""
TOLERANCE = 1e-5
"""Largest difference of a logit after reloading, relative to the largest logit."""
_STORED: dict[str, Any] = {"none": None, "nf4": {"type": "nf4", "compute_dtype": "float32"}, "int8": {"bits": 8}}
"""As in `model.quantization`; computed in float32, so that rounding explains no difference."""

_UNMOVED = re.compile(
    r"\b(k|k_proj|k_lin|key|key_proj)\.(base_layer\.)?bias$|\.1\.shadow_update_|"
    r"\.shadow_backbone\.default\.\w+\.weight$|\.shadow_head\.|\.glora_D\."
)
"""Trained parameters without a gradient: a key's bias adds the same to every score of a query; of a shadow model, what
is updated behind the last layer, its embeddings and its head are not read; GLoRA's D scales biases, here zero."""
_TEXTS = ("w1 w2 w3 w4", "w5 w6", "w7 w8 w9")


@dataclass
class Result:
    """The result of one cell."""

    row: str
    method: str
    task: str
    family: str
    quantization: str
    status: str
    """`works`, `refused`, `untested` or `crash`."""
    reason: str = ""
    """Why it is refused, or the traceback of a crash."""
    largest_difference: float | None = None
    seconds: float = 0.0


def train_cells(cells: list[Cell], folder: Path, report: Callable[[Result], None]) -> None:
    """Attach, train three steps and save each cell, with what must be equal after reloading.

    Args:
        cells: Of one family and one quantization.
        folder: For the base, the rows and a run folder per cell.
        report: Called with each final result: refusals and crashes.
    """
    prepared: dict[str, Any] = {}
    _import_libraries()
    for cell in cells:
        started = time.monotonic()
        try:
            result = _train(cell, folder, prepared)
        except LoraNsError as error:
            result = _refusal(cell, error, folder)
        except Exception as error:  # noqa: BLE001  any error is a finding of the matrix
            result = _crash(cell, error)
        if result is not None:
            result.seconds = round(time.monotonic() - started, 2)
            report(result)


def reload_cells(cells: list[Cell], folder: Path, report: Callable[[Result], None]) -> None:
    """Load what was saved, in a process that did not train it, and compare the logits.

    Args:
        cells: As in `train_cells`; cells that were not saved are skipped.
        folder: As in `train_cells`.
        report: Called with each result.
    """
    for cell in cells:
        run = folder / cell.name
        if not (run / "logits.pt").is_file():
            continue
        try:
            result = _reload(cell, run)
        except Exception as error:  # noqa: BLE001  a refusal comes too late here, too
            result = _crash(cell, error)
        report(result)


def prepare_folder(family: str, folder: Path) -> None:
    """Save the base and the rows."""
    save_family_base(family, folder / "base")
    rows = [{"text": f"w{n} w{n + 1} w{n + 9} w{n % 3}", "label": "ab"[n % 2]} for n in range(8)]
    _write_rows(folder / "SEQ_CLS", rows)
    _write_rows(folder / "CAUSAL_LM", [{"prompt": row["text"], "completion": " w4 w5 w6"} for row in rows])


def describe_run(cell: Cell, folder: Path) -> dict[str, Any]:
    """Return the configuration of a cell's run, as its YAML file would hold it."""
    causal = cell.task == "CAUSAL_LM"
    return {
        "task_name": "matrix",
        "task_type": cell.task,
        "model": {
            "name_or_path": str(folder / "base"),
            "quantization": _STORED[cell.quantization],
        },
        "peft": {"method": cell.row.method, **cell.row.keys},
        "dataset": {"name": "custom", "path": str(folder / cell.task)} | ({} if causal else {"max_length": 32}),
        "training": {
            "output_dir": str(folder / cell.name),
            "max_steps": NUM_STEPS,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "eval_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "disable_tqdm": True,
            "use_cpu": True,
        },
        **({"sft": {"max_length": 32}, "evaluation": {"at_end": False}} if causal else {}),
    }


def _import_libraries() -> None:
    """Import large libraries, and exclude them from the garbage collection that ends every training (0.3 s each)."""
    import gc

    from peft import get_peft_model
    from transformers import Trainer
    from trl import SFTTrainer

    assert all((get_peft_model, Trainer, SFTTrainer))
    gc.freeze()


def _write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def _train(cell: Cell, folder: Path, prepared: dict[str, Any]) -> Result | None:
    import torch
    import yaml
    from transformers import set_seed

    from utils.modeling.base_model import load_base_model
    from utils.modeling.tokenizer import load_tokenizer
    from utils.run_config import load_run_config
    from utils.runs.export import export_model
    from utils.runs.opening import open_run_folder
    from utils.tasks.preparing import attach_adapter
    from utils.tasks.task import open_task

    file = folder / f"{cell.name}.yaml"
    file.write_text(yaml.safe_dump(describe_run(cell, folder)), encoding="utf-8")
    config = load_run_config(file)
    set_seed(config.seed)
    task = open_task(config)
    tokenizer = load_tokenizer(config.model)
    if cell.task not in prepared:
        prepared[cell.task] = task.prepare_data(tokenizer)
    data = prepared[cell.task]
    model = load_base_model(config.model, tokenizer, task.describe_head(data), config.seed)
    model = attach_adapter(model, config, tokenizer, data)
    trainer = task.build_trainer(model, tokenizer, data)
    model = trainer.model
    before = {name: each.detach().clone() for name, each in _trained(model)}
    trainer.train()
    _check_training(before, model, trainer.state.log_history)
    run = open_run_folder(config)
    logits = _compute_logits(model, tokenizer)
    export_model(run, config, trainer, tokenizer, data)
    torch.save(logits, run.path / "logits.pt")
    return None


def _trained(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    yield from ((name, each) for name, each in model.named_parameters() if each.requires_grad)


def _check_training(before: dict[str, Any], model: PreTrainedModel, history: list[dict[str, Any]]) -> None:
    import torch

    losses = [log["loss"] for log in history if "loss" in log]
    assert len(losses) == NUM_STEPS, f"{len(losses)} losses were logged"
    assert all(map(math.isfinite, losses)), f"the losses are {losses}"
    after = dict(_trained(model))
    assert before, "nothing is trained"
    still = [name for name, old in before.items() if torch.equal(old, after[name]) and not _UNMOVED.search(name)]
    assert not still, f"{len(still)} of {len(before)} trained parameters did not move: {', '.join(still[-5:])}"


def _compute_logits(model: PreTrainedModel, tokenizer: Any) -> Any:
    import torch

    from utils.trainer.varlen_attention import plain_attention

    batch = tokenizer(list(_TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad(), plain_attention(model):
        logits = model.eval()(**batch).logits.float()
    assert bool(torch.isfinite(logits).all()), "logits are not finite"
    return logits


def _reload(cell: Cell, run: Path) -> Result:
    import torch

    from utils.runs.open_model import open_run

    model, tokenizer = open_run(run).load()
    expected = torch.load(run / "logits.pt", weights_only=True)
    actual = _compute_logits(model, tokenizer)
    difference = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    assert difference <= TOLERANCE, f"after reloading, logits differ by {difference:.3g} of the largest"
    return _result(cell, "works", largest_difference=difference)


def _refusal(cell: Cell, error: LoraNsError, folder: Path) -> Result:
    problems = error.problems if isinstance(error, ConfigError) else []
    sentences = [f"{each.path}: {each.message}" if each.path else each.message for each in problems] or [str(error)]
    return _result(cell, "refused", "; ".join(sentences).replace(str(folder / "base"), "the model"))


def _crash(cell: Cell, error: Exception) -> Result:
    return _result(cell, "crash", "".join(traceback.format_exception(error)))


def _result(cell: Cell, status: str, reason: str = "", largest_difference: float | None = None) -> Result:
    row = cell.row
    return Result(row.title, row.method, cell.task, cell.family, cell.quantization, status, reason, largest_difference)


def write_result(result: Result) -> str:
    """Write a result as one line of JSON."""
    return json.dumps(asdict(result))
