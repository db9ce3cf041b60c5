"""The plan of one run: parameters, steps, tokens, memory by part, what fits on a card, time at a known rate."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.sections.evaluation import EvaluationSection
from utils.core.errors import LoraNsError, UserError
from utils.core.library_errors import describe
from utils.core.project import PACKAGE, ROOT
from utils.planning.cards import CARDS
from utils.planning.step_times import FILE
from utils.results.json_file import read_json
from utils.results.labels import Language, count_columns, translate
from utils.results.sentences import phrase
from utils.tasks.preparing import count_training_steps
from utils.tasks.task import load_task, open_task

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.modeling.sizes import ParameterCounts
    from utils.planning.memory import Memory

GIB = 1024**3
_NUM_PROBED = 8
"""Number of steps; the first is slower, and is left out."""
_BY_EVALUATIONS = ("reduce_lr_on_plateau", "greedy")
"""Schedules driven by evaluations, which a probe does not make."""
_OF_SHAPES = (
    OSError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError, LookupError, AssertionError
)  # fmt: skip
"""Errors that a config.json with numbers of no valid model raises, wherever they are first used."""
_KEPT_FREE_GB = 1.0
"""Approximate memory of CUDA's context and libraries on a card."""


@dataclass(frozen=True)
class Rows:
    """Facts about the training rows."""

    lengths: list[int]
    """Tokens of each row; empty: the rows are not available."""
    num_labels: int | None
    """Number of outputs of the new head; None for a language model."""
    why_absent: str = ""


@dataclass(frozen=True)
class Plan:
    """Resources of a run."""

    counts: ParameterCounts
    memory: Memory
    batch: tuple[int, int]
    """Number of rows of the longest batch, and tokens of each."""
    num_rows: int | None
    """None: the rows are not available."""
    num_steps: int | None
    num_tokens: int | None
    """Tokens of all steps, without padding."""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the plan for `--json`, with memory in GiB."""
        parts = {name: round(size / GIB, 3) for name, size in vars(self.memory).items()}
        known = {"rows": self.num_rows, "steps": self.num_steps, "tokens": self.num_tokens, "note": self.note or None}
        return {
            "status": "planned",
            "params": vars(self.counts),
            "longest_batch": {"rows": self.batch[0], "tokens_of_each": self.batch[1]},
            **{name: value for name, value in known.items() if value is not None},
            "memory_gb": {**parts, "total": round(self.memory.total / GIB, 3)},
        }


def plan_run(config: RunConfig) -> Plan:
    """Plan a run from config.json, and from the rows if they are available.

    Raises:
        UserError: The base's config.json is not on this machine, or the model cannot run without weights.
    """
    from utils.planning.memory import plan_memory

    rows = read_rows(config)
    arguments = config.arguments
    per_batch = int(arguments.get("per_device_train_batch_size", 8))
    longest = sorted(rows.lengths)[-per_batch:] or [config.max_length] * per_batch
    tokens = max(longest) + config.peft.virtual_tokens
    # Without padding a batch is as long as its rows together, assumed to be as many of the longest's length.
    batch = (max(1, round(sum(longest) / max(longest))) if load_task(config.task).GENERATES else len(longest), tokens)
    try:
        counts, memory = plan_memory(config, rows.num_labels, batch)
    except _OF_SHAPES as error:
        what = f"{config.model.name_or_path} with {config.peft.method}"
        raise UserError(f"{what} cannot be planned: {describe(error)}") from error
    steps = count_training_steps(arguments, len(rows.lengths)) if rows.lengths or arguments.get("max_steps") else None
    seen = steps * per_batch * int(arguments.get("gradient_accumulation_steps", 1)) if steps else 0
    mean = sum(rows.lengths) / max(1, len(rows.lengths))
    return Plan(
        counts,
        memory,
        batch,
        len(rows.lengths) or None,
        steps,
        round(seen * mean) if rows.lengths else None,
        rows.why_absent,
    )


def read_rows(config: RunConfig) -> Rows:
    """Read and encode the rows; if they or the tokenizer are unavailable, assume rows of the maximum length."""
    from utils.modeling.tokenizer import load_tokenizer

    task = open_task(config)
    try:
        data = task.prepare_data(load_tokenizer(config.model))
    except LoraNsError as error:
        num_labels = load_task(config.task).count_labels(config.dataset)
        first = str(error).splitlines()[0]
        why = phrase("plan_no_rows", config.results.language, why=first, tokens=config.max_length)
        return Rows([], 2 if num_labels == 0 else num_labels, why)
    return Rows(data.list_training_lengths(), None if data.label_names is None else max(1, len(data.label_names)))


def show_plan(plan: Plan, config: RunConfig, card: str | None, rate: float | None) -> dict[str, Any]:
    """Print a plan, and return it for `--json`."""
    lines = list(_describe(plan, config.results.language))
    answer = plan.to_json()
    if card is not None:
        answer["card"] = _fit(plan, card, config)
        lines += [(card, answer["card"]["sentence"])]
    if rate is not None and plan.num_tokens:
        answer["hours"] = round(plan.num_tokens / rate / 3600, 3)
        time = _write_time(plan.num_tokens / rate)
        lines += [("time", phrase("plan_time", config.results.language, time=time, rate=rate))]
    if plan.note:
        lines += [("note", plan.note)]
    named = [(name if name == card else translate(name, config.results.language), text) for name, text in lines]
    width = max(count_columns(name) for name, _ in named)
    lined_up = (f"{name}{' ' * (width - count_columns(name))}  {text}" for name, text in named)
    print("\n".join(lined_up))  # noqa: T201  the command's own output
    return answer


def _describe(plan: Plan, language: Language) -> Iterator[tuple[str, str]]:
    """Yield the lines that every plan has, each as the key of its label and its text."""
    counts, memory, (rows, longest) = plan.counts, plan.memory, plan.batch
    share = counts.trainable_percent
    yield "plan_params", phrase("plan_parameters", language, trained=counts.trainable, total=counts.total, share=share)
    if plan.num_rows:
        yield "training_rows", phrase("plan_rows", language, num=plan.num_rows, tokens=longest)
    if plan.num_steps:
        steps = phrase("plan_steps", language, num=plan.num_steps, tokens=plan.num_tokens or 0)
        yield "num_steps", steps if plan.num_tokens else f"{plan.num_steps:,}"
    yield "memory", phrase("plan_memory", language, size=_write_size(memory.total))
    yield from ((f"memory_{name}", _write_size(size)) for name, size in vars(memory).items())
    yield "longest_batch", phrase("plan_batch", language, rows=rows, tokens=longest)


def _fit(plan: Plan, card: str, config: RunConfig) -> dict[str, Any]:
    """Return whether a run fits on a card, and how many rows of the longest's length would."""
    room = (CARDS[card] * 1e9 / GIB - _KEPT_FREE_GB) * GIB
    fixed = plan.memory.total - plan.memory.step
    rows = math.floor((room - fixed) / (plan.memory.step / plan.batch[0]))
    fits = plan.memory.total <= room
    language = config.results.language
    if fits or rows >= 1:
        sentence = phrase("plan_fits" if fits else "plan_fewer", language, rows=rows, tokens=plan.batch[1])
    else:
        ways = ["training.gradient_checkpointing: true"] if not config.arguments.get("gradient_checkpointing") else []
        ways += ["model.quantization: nf4"] if config.model.quantization is None and fixed > room / 2 else []
        ways += [phrase("a_smaller", language, name=config.length_key)]
        sentence = phrase("plan_none", language, ways=phrase("or", language).join(ways))
    return {"name": card, "gb": CARDS[card], "fits": fits, "rows_that_fit": max(rows, 0), "sentence": sentence}


def _write_size(size: int) -> str:
    return f"{size / GIB:.2f} GB" if size >= GIB / 10 else f"{size / 2**20:.1f} MB"


def _write_time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def measure_rate(config: RunConfig) -> float:
    """Train some steps in a temporary folder, and return their tokens per second without the first step.

    Raises:
        UserError: The run cannot be trained here, with its own message.
    """
    with tempfile.TemporaryDirectory(prefix="lora_ns_probe_") as folder:
        file = Path(folder, "probe.yaml")
        file.write_text(config.to_yaml(), "utf-8")
        output = Path(folder, "run")
        command = [sys.executable, str(ROOT / "train.py"), "--config", str(file), *shorten_run(config, output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own command
        if done.returncode:
            raise UserError(f"{_NUM_PROBED} steps could not be trained: {done.stderr.strip().splitlines()[-1]}")
        steps = (read_json(output / FILE) or {"steps": []})["steps"]
    (begin, before), (end, after) = steps[min(1, len(steps) - 1)], steps[-1]
    return float((after - before) / max(end - begin, 1e-9))


def shorten_run(config: RunConfig, output: Path) -> list[str]:
    """Return `key=value` arguments that shorten a run to a few steps without evaluating, saving or reporting."""
    callbacks = [*config.training.callbacks, f"{PACKAGE}.planning.step_times:StepTimes"]
    words = [f"training.max_steps={_NUM_PROBED}", f"training.output_dir={output}", "training.report_to=none"]
    words += ["training.save_strategy=no", "training.eval_strategy=no", "training.load_best_model_at_end=false"]
    words += ["training.eval_on_start=false", "training.early_stopping_patience=null", "training.push_to_hub=false"]
    words += [f"training.callbacks=[{', '.join(callbacks)}]"]
    if config.arguments.get("lr_scheduler_type") in _BY_EVALUATIONS:
        words += ["training.lr_scheduler_type=constant", "training.lr_scheduler_kwargs=null"]
    if config.find_section(EvaluationSection) is not None:
        words += ["evaluation.at_end=false", "evaluation.steps=null", "evaluation.at_start=false"]
        words += ["evaluation.retention=null"]
    return words
