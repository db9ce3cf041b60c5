"""The table at the end of a run, and the next commands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from utils.core import registry
from utils.results.labels import is_score, scale, translate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from utils.results.labels import Language
    from utils.results.record import RunRecord

_LOSSES = ("loss", "perplexity", "token_accuracy")
"""Metrics of a language model's loss evaluation; a classifier's loss is not comparable and stays in the file."""
_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")


def render_result_table(
    record: RunRecord, language: Language = "en", next_commands: Sequence[str] = ()
) -> RenderableType:
    """Build the output at the end of a run; it fits any width and is readable as plain text.

    Measurements that are missing have no line. A command that is too wide is broken between words with a backslash, so
    that it can be copied.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=translate("result", language), title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, value in _list_lines(record, language):
        table.add_row(Text(label), Text(value))
    if not next_commands:
        return table
    return Group(table, Text(translate("next", language)), *(_Command(command) for command in next_commands))


class _Command:
    """A command line that is broken between words at the terminal's width."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text("\n".join(_break_command(self.command, options.max_width)), overflow="fold")


def _break_command(command: str, width: int) -> list[str]:
    """Break a shell command between words, but not inside quotes."""
    lines, line = [], " "
    for word in _WORD.findall(command):
        if len(line) + len(word) + 3 > width and line.strip():
            lines.append(f"{line} \\")
            line = "     "
        line = f"{line} {word}"
    return [*lines, line]


def _list_lines(record: RunRecord, language: Language) -> Iterator[tuple[str, str]]:
    yield translate("status", language), translate(record.status, language)
    yield translate("task", language), f"{record.task_name} ({record.task_type})"
    if dataset := record.extra.get("dataset"):
        yield translate("dataset", language), " ".join(filter(None, (dataset["path"], dataset["subset"])))
    yield translate("method", language), record.method
    yield from _list_scores(record, language)
    for name, values in record.retention.items():
        yield f"{translate('retention', language)}: {name}", _list_retention(values, language)
    yield from _list_costs(record, language)
    if record.warnings:
        yield translate("warnings", language), "\n".join(record.warnings)


def _list_scores(record: RunRecord, language: Language) -> Iterator[tuple[str, str]]:
    """Yield the task's metric with interval and baseline, its other metrics and accuracy, then scores of answers."""
    best, value = record.read_headline()
    if best:
        yield _label(best), _show_score(record, best, value, language)
    if record.best_metric and record.best_metric.name != best:
        chosen = record.best_metric
        step = f"{translate('step', language)} {chosen.step}"
        text = f"{_label(chosen.name)} {show_value(chosen.name, chosen.value)} ({step})"
        yield translate("chosen_by", language), text
    if best in record.metrics_last:
        yield f"{_label(best)}, {translate('last', language)}", show_value(best, record.metrics_last[best])
    if best in record.baseline:
        yield translate("majority", language), show_value(best, record.baseline[best])
    written = {name for values in record.evaluation.values() for name in values}
    others = ["accuracy", *(name for name in record.interval if name not in written)]
    others += _LOSSES if "perplexity" in record.metrics else ()
    for name in dict.fromkeys(others if best else record.metrics):
        if name != best and name in record.metrics:
            yield _label(name), _show_score(record, name, record.metrics[name], language)
    yield from _list_written(record, language)


def _show_score(record: RunRecord, name: str, value: float | None, language: Language) -> str:
    if not (bounds := record.interval.get(name)):
        return show_value(name, value)
    low, high = (show_value(name, bound) for bound in bounds)
    return f"{show_value(name, value)} ({translate('interval', language)} {low} .. {high})"


def _list_retention(values: Mapping[str, Any], language: Language) -> str:
    """Format the scores of the base and the tuned model, and the interval of the difference."""
    if "error" in values:
        return f"{translate('not_scored', language)}: {values['error']}"
    parts = []
    for name, each in values["metrics"].items():
        base, tuned = show_value(name, each["base"]), show_value(name, each["tuned"])
        change, low, high = (f"{scale(name, value):+.2f}" for value in (each["difference"], *each["interval"]))
        parts.append(f"{_label(name)} {base} -> {tuned} ({change}; {translate('interval', language)} {low} .. {high})")
    return ", ".join(parts)


def _list_written(record: RunRecord, language: Language) -> Iterator[tuple[str, str]]:
    """Yield the scores of generated answers: of the kept weights, then of the best and the last step if they differ."""
    kept = record.evaluation.get("combined", {}).get("kept_step")
    for set_name, values in record.evaluation.items():
        if set_name == "combined":
            yield translate("combined", language), _list_combined(values, language)
            continue
        if scores := _join_scores(values):
            yield set_name, scores
        elif "error" in values:
            yield set_name, f"{translate('not_scored', language)}: {values['error']}"
        for which in ("best_combined", "best", "last"):  # older records call the first one best
            beside = values.get(which, {})
            if beside.get("step") != kept and (scores := _join_scores(beside)):
                which = "best_combined" if which == "best" else which
                yield f"{set_name}, {_name_step(which, beside['step'], language)}", scores


def _join_scores(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{_label(name)} {show_value(name, each)}" for name, each in values.items() if registry.has("metrics", name)
    )


def _list_combined(values: Mapping[str, Any], language: Language) -> str:
    """Format the sum over all sets, which is not a percentage, for the kept, the best and the last step."""
    kept = values.get("combined_score")
    shown = ["-" if kept is None else f"{kept:.4f}"]
    for which in ("best", "last"):
        score, step = values.get(f"{which}_score"), values.get(f"{which}_step")
        if step is not None:
            shown.append(f"{_name_step(which, step, language)}: {'-' if score is None else f'{score:.4f}'}")
    return ", ".join(shown)


def _name_step(which: str, step: int, language: Language) -> str:
    return f"{translate(which, language)} ({translate('step', language)} {step})"


def _list_costs(record: RunRecord, language: Language) -> Iterator[tuple[str, str]]:
    params, time = record.params, record.time
    if params.trainable is not None:
        share = "" if params.trainable_percent is None else f" ({show_share(params.trainable_percent)} %)"
        total = "" if params.total is None else f" / {params.total:,}"
        yield translate("trainable", language), f"{params.trainable:,}{total}{share}"
    if memory := _describe_memory(record, language):
        yield translate("peak_memory", language), memory
    speeds = {
        "train_runtime": time.train_runtime_s, "samples_per_s": time.samples_per_s, "tokens_per_s": time.tokens_per_s,
    }  # fmt: skip
    for key, value in speeds.items():
        if value is not None:
            yield translate(key, language), f"{value:,.1f}"


def _describe_memory(record: RunRecord, language: Language) -> str:
    memory = record.memory
    parts = (
        ("allocated", memory.peak_vram_gb),
        ("reserved", memory.peak_vram_reserved_gb),
        ("resident", memory.peak_rss_gb),
    )
    shown = [f"{value:.2f} GB {translate(key, language)}" for key, value in parts if value is not None]
    return f"{memory.device or '?'}: {', '.join(shown)}" if shown else ""


def _label(name: str) -> str:
    return f"{name} x100" if is_score(name) else name


def show_value(name: str, value: float | None) -> str:
    """Format a quantity: scores x100 with two digits, others unchanged with four."""
    return "-" if value is None else f"{scale(name, value):.2f}" if is_score(name) else f"{value:.4f}"


def show_share(percent: float) -> str:
    """Format a percentage with two digits, or more if they would be 0.00."""
    return f"{percent:.2f}" if percent >= 0.1 else f"{percent:.2g}"
