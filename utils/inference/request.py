"""The request of a call of inference.py, checked as far as the command line alone allows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.core.errors import UserError
from utils.core.locks import try_lock
from utils.core.texts import FILE_KINDS
from utils.data.row_files import is_stream
from utils.modeling.consent import NO_CONSENT, Consent

OUTPUT_KINDS = (".jsonl", ".json", ".csv", ".tsv", ".xlsx", ".parquet")


@dataclass(frozen=True)
class ModelChoice:
    """The model to use: a run, an adapter or model with a configuration, or a published model."""

    run: str | None = None
    """A run folder, its final_model/ or a checkpoint."""
    best: bool = False
    """Whether to use the run's best checkpoint."""
    checkpoint: int | None = None
    """Step of the run's checkpoint."""
    config: str | None = None
    """A configuration file, with model_path."""
    model_path: str | None = None
    """A folder of weights."""
    model: str | None = None
    """Hub name or folder of a whole model; with an adapter, of its base."""
    adapter: str | None = None
    """A folder in peft's layout."""
    consent: Consent = NO_CONSENT
    """Code that may run."""


@dataclass(frozen=True)
class Request:
    """One call."""

    choice: ModelChoice
    texts: tuple[str | Mapping[str, Any], ...] = ()
    """Texts from the command line; from Python code also whole rows."""
    input_file: str | None = None
    """None, without texts: standard input."""
    input_format: str | None = None
    """Format of the input as a suffix without dot; None: the file's own suffix."""
    input_quoting: bool | None = None
    """Whether quotes enclose the fields of a table; None: the run's dataset.quoting."""
    output_file: str | None = None
    """None: standard output."""
    text_columns: tuple[str, ...] = ()
    """Columns to read instead of the run's."""
    generation: dict[str, Any] = field(default_factory=dict)
    """Fields of the `generation:` section that the command line sets."""
    seed: int = 0
    """Seed of the sampling at a temperature above 0."""
    server: str | None = None
    """Address of a server that generates in place of the model."""
    served_model: str | None = None
    """Name of its model; None: the only one."""
    stream: bool = False
    """Whether to show the answer while it is generated."""
    strict: bool = False
    """Whether to stop at the first bad row."""
    as_json: bool = False
    """Whether to print one JSON object on standard output."""

    def check(self) -> None:
        """Check options that contradict each other, and files, before anything is read."""
        _check_choice(self.choice)
        _check_options(self)
        if self.input_file is not None:
            check_input(self.input_file, self.input_format)
        if self.output_file is not None:
            check_output(self.output_file, self.input_file)


def partial_path(output_file: str) -> Path:
    """Return the path of the file with the answers so far."""
    target = Path(output_file).expanduser()
    return target.with_name(f"{target.name}.partial.jsonl")


def check_input(name: str, stated: str | None = None) -> None:
    """Check that an input file exists, is not empty and has a known format."""
    source = Path(name).expanduser()
    if os.path.isdir(source):
        raise UserError(f"--input_file {name}: is a folder; name a file in it")
    if stated is None and source.suffix.lower() not in FILE_KINDS and not (is_stream(source) and not source.suffix):
        known = ", ".join(FILE_KINDS)
        raise UserError(f"--input_file {name}: unknown kind of file; use {known}, or set --input_format")
    if not os.path.exists(source):
        raise UserError(f"--input_file {name}: no such file")
    if is_stream(source):  # reading would consume a pipe
        return
    try:
        with source.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise UserError(f"--input_file {name}: cannot be read: {error.strerror}") from None
    if not first:
        raise UserError(f"--input_file {name}: the file is empty")


def check_output(name: str, input_file: str | None) -> None:
    """Check that an output file has a known format, is not the input, and can be written by this call alone."""
    target = Path(name).expanduser()
    if os.path.isdir(target):
        raise UserError(f"--output_file {name}: is a folder; name a file in it")
    if target.suffix.lower() not in OUTPUT_KINDS:
        raise UserError(f"--output_file {name}: unknown kind of file; use one of {', '.join(OUTPUT_KINDS)}")
    for written in (target, partial_path(name)):
        if input_file is not None and _is_same(Path(input_file).expanduser(), written):
            raise UserError(f"--output_file {name}: is the input file, which would be overwritten; name another")
    if os.path.exists(target) and not target.stat().st_mode & 0o222:
        raise UserError(f"--output_file {name}: exists and is read-only; name another file")
    _try_writing(name)


def _try_writing(name: str) -> None:
    probe = partial_path(name)
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        if probe.is_symlink():
            raise UserError(f"{probe}: is a link, and no answers are written through it; remove it")
        new = not os.path.exists(probe)
        with probe.open("ab") as file:
            if not try_lock(file):
                raise UserError(f"{probe}: another call is writing it; wait for its end, or name another output")
            if new:
                probe.unlink()
    except OSError as error:
        raise UserError(f"--output_file {name}: cannot be written: {error.strerror}") from None


def _is_same(source: Path, target: Path) -> bool:
    if not os.path.exists(source) or not os.path.exists(target):
        return os.path.abspath(source) == os.path.abspath(target)  # noqa: PTH100  Path.resolve raises for a long name
    return source.samefile(target)


def _check_choice(choice: ModelChoice) -> None:
    with_config = choice.config is not None or choice.model_path is not None
    if sum((choice.run is not None, with_config, bool(choice.model or choice.adapter))) != 1:
        raise UserError(
            "name one model: --run (a trained run), --config with --model_path, --model (a published model), or "
            "--adapter, with its base by --model"
        )
    if with_config and (choice.config is None or choice.model_path is None):
        raise UserError("--config and --model_path go together")
    if choice.run is None and (choice.best or choice.checkpoint is not None):
        raise UserError("--best and --checkpoint choose among the checkpoints of a --run")
    if choice.best and choice.checkpoint is not None:
        raise UserError("give either --best or --checkpoint")


def _check_options(request: Request) -> None:
    if request.texts and request.input_file is not None:
        raise UserError("give either --input_text or --input_file")
    if request.texts and request.output_file is not None:
        raise UserError("--output_file takes the answers to --input_file or to standard input")
    if request.texts and request.input_format is not None:
        raise UserError("--input_format is for --input_file and for standard input")
    if request.stream and len(request.texts) != 1:
        raise UserError("--stream shows one answer while it is generated; give one --input_text")
    if request.seed < 0:
        raise UserError(f"--seed {request.seed}: must be 0 or more")
    if request.as_json and not request.texts and request.output_file is None:
        raise UserError("--json prints one object; let the answers go to an --output_file")
