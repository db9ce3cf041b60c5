"""One call of inference.py from the request to the answers: the model, the rows, where the answers go."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from utils.config.sections.dataset import InstructionSection
from utils.config.sections.generation import GenerationSection
from utils.core.errors import DataError, LoraNsError, UserError
from utils.core.terminal import write_data
from utils.data.dataset import load_dataset_plugin
from utils.data.report import show_characters
from utils.data.row_files import explain_unreadable, spool
from utils.inference.model_ref import ModelRef, find_max_length, open_subject
from utils.inference.partial import PartialFile, dump
from utils.inference.progress import Progress
from utils.inference.prompt_builder import (
    ChatPromptBuilder,
    PromptBuilder,
    build_chat_prompt_builder,
    build_text_prompt_builder,
)
from utils.inference.request import Request, partial_path
from utils.inference.rows import TABLE_KINDS, InputRow, Source, open_source, read_rows
from utils.inference.tables import write_results

if TYPE_CHECKING:
    from utils.inference.job import InferenceJob
    from utils.inference.predictor import Predictor

logger = logging.getLogger(__name__)

_WINDOW_OF_A_STREAM = 128  # rows that standard output waits for; one at a time where somebody types them

Answer = dict[str, Any]


def answer_request(request: Request) -> Answer:
    """Answer what is asked.

    Args:
        request: Checked.

    Returns:
        `answers` to texts, or what was written where.

    Raises:
        LoraNsError: The model, the rows or the answers are not to be had.
    """
    subject = open_subject(request.choice)
    subject = _with_generation(subject, request)
    if request.texts:
        return _answer_texts(request, subject)
    first_source = _open_source(subject, request, "text")
    if first_source.path is None and sys.stdin.isatty():
        sys.stderr.write("reading standard input; end it with Ctrl-D\n")
    first = next(read_rows(first_source), None) if first_source.path is not None else None
    if first is None and first_source.path is not None:
        raise DataError(f"{first_source.name}: the file holds no rows")
    prompt_builder = _build_prompt_builder(subject, request, tuple(first.row) if first is not None else ())
    source = _open_source(subject, request, prompt_builder.text_column)
    is_table = first is not None and first.error is None and source.kind in TABLE_KINDS
    if is_table and (problem := prompt_builder.find_missing(first.row if first else ())):
        raise DataError(f"{source.name}: {problem}")
    rows = _require_rows(read_rows(source), source)
    if request.output_file is None:
        return _answer_to_output(request, subject, prompt_builder, source, rows)
    return _answer_to_file(request, subject, prompt_builder, source, rows)


def _open_source(subject: ModelRef, request: Request, text_column: str) -> Source:
    """Describe the input, which is quoted as the run's own files are unless the command line says otherwise."""
    quoting = request.input_quoting
    if quoting is None and subject.dataset is not None:
        quoting = getattr(subject.dataset, "quoting", None)
    return open_source(request.input_file, request.input_format, text_column, quoting)


def _with_generation(subject: ModelRef, request: Request) -> ModelRef:
    """Lay the command line's settings over the run's."""
    given = request.generation
    if not subject.generates:
        if given or request.stream:
            names = ", ".join([*(f"--{name}" for name in given), *(["--stream"] if request.stream else [])])
            raise UserError(f"{subject.title} is a classifier, which writes nothing; leave out {names}")
        return subject
    try:
        section = GenerationSection(**{**subject.generation.model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg']}") from None
    if section.temperature == 0 and (idle := [name for name in ("top_p", "top_k") if given.get(name) is not None]):
        names = ", ".join(f"--{name}" for name in idle)
        raise UserError(f"{names}: has no effect at --temperature 0, where the likeliest token is taken")
    return dataclasses.replace(subject, generation=section)


def _build_prompt_builder(subject: ModelRef, request: Request, there: tuple[str, ...]) -> PromptBuilder:
    section = subject.dataset
    plugin = load_dataset_plugin(section.name) if section is not None else None
    if not subject.generates:
        described = plugin.describe_classification(section) if plugin is not None else None
        return build_text_prompt_builder(described, request.text_columns)
    spec = plugin.describe_instructions(section) if plugin is not None else None
    return build_chat_prompt_builder(spec, request.text_columns, there)


def _load_predictor(subject: ModelRef, prompt_builder: PromptBuilder, request: Request) -> Predictor:
    """Load the model; from here on the ML libraries are needed."""
    from utils.data.encoding import ExampleEncoder
    from utils.generation.model_state import place_model
    from utils.inference.predictor import ClassifyingModel, WritingModel

    loaded = subject.load()
    model, tokenizer = place_model(loaded.model), loaded.tokenizer
    if not subject.generates:
        return ClassifyingModel(model, tokenizer, loaded.label_names, find_max_length(subject, loaded))
    assert isinstance(prompt_builder, ChatPromptBuilder), f"got {type(prompt_builder)}"
    section, sft = subject.dataset, subject.sft
    if isinstance(section, InstructionSection) and sft is not None:
        encoder = ExampleEncoder.build(tokenizer, section, sft.max_length, not sft.completion_only_loss)
    else:
        encoder = ExampleEncoder(tokenizer, sys.maxsize, as_chat=bool(tokenizer.chat_template))
    return WritingModel(model, encoder, prompt_builder, subject.generation, request.seed)


def _answer_texts(request: Request, subject: ModelRef) -> Answer:
    """Answer texts of the command line, on standard output unless one JSON object is wanted."""
    from utils.inference.job import OrderedResultWriter

    prompt_builder = _build_prompt_builder(subject, request, ())
    rows = [InputRow(number, {"row": number}, row) for number, row in enumerate(prompt_builder.lay_out(request.texts))]
    predictor = _load_predictor(subject, prompt_builder, request)
    source = Source(None, ".txt", prompt_builder.text_column)
    if request.stream:
        return _stream(request, prompt_builder, predictor, rows[0])
    answers: list[Mapping[str, Any]] = []
    work = _build_job(source, prompt_builder, predictor, OrderedResultWriter(answers.append), request)
    work.answer_all(rows)
    if not request.as_json:
        for answer in answers:
            _print(answer)
    if work.num_bad == len(rows):
        raise DataError(work.bad[0].replace(f"{source.name}, row ", "--input_text "))
    return {"status": "success", "answers": answers}


def _stream(request: Request, prompt_builder: PromptBuilder, predictor: Predictor, row: InputRow) -> Answer:
    from utils.core.texts import RowError
    from utils.inference.predictor import WritingModel

    assert isinstance(predictor, WritingModel), f"got {type(predictor)}"

    try:
        answered = predictor.stream(prompt_builder.read(row.row), write_data)
    except RowError as error:
        raise DataError(f"--input_text: {error}") from None
    write_data("\n")
    return {"status": "success", "answers": [{**row.row, **answered.answer}]}


def _answer_to_output(
    request: Request, subject: ModelRef, prompt_builder: PromptBuilder, source: Source, rows: Iterator[InputRow]
) -> Answer:
    """Answer rows on standard output, as JSON lines."""
    from utils.inference.job import OrderedResultWriter

    predictor = _load_predictor(subject, prompt_builder, request)
    work = _build_job(source, prompt_builder, predictor, OrderedResultWriter(_print), request)
    work.window = 1 if source.path is None and sys.stdin.isatty() else _WINDOW_OF_A_STREAM
    work.answer_all(rows)
    return _tell_end(work)


def _answer_to_file(
    request: Request, subject: ModelRef, prompt_builder: PromptBuilder, source: Source, rows: Iterator[InputRow]
) -> Answer:
    """Answer rows into a file that appears whole; what is done survives in a file beside it."""
    assert request.output_file is not None, "checked before"
    target = Path(request.output_file).expanduser()
    predictor = _load_predictor(subject, prompt_builder, request)
    identity = _build_identity(request, prompt_builder, predictor, source)
    partial = PartialFile(partial_path(request.output_file), identity)
    work = _build_job(source, prompt_builder, predictor, partial, request)
    work.progress = Progress(partial.num_kept)
    try:
        work.answer_all(rows)
        write_results(partial.results, target)
        partial.remove()
    except (KeyboardInterrupt, LoraNsError):
        work.progress.finish()
        num_done = partial.num_kept + work.progress.num_rows
        if num_done:
            end = "the same command goes on" if identity is not None else "standard input cannot be gone on with"
            logger.info("%d answers are kept in %s; %s", num_done, partial.path, end)
        raise
    finally:
        partial.close()
    answer = _tell_end(work)
    logger.info("%d rows: %s", work.num_rows, target)
    return {**answer, "num_kept": partial.num_kept, "output_file": request.output_file}


def _build_identity(
    request: Request, prompt_builder: PromptBuilder, predictor: Predictor, source: Source
) -> dict[str, Any] | None:
    """Name all that decides the answers; None for standard input, which cannot be read again."""
    if source.path is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    with explain_unreadable(source.name), spool(source.path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    described = predictor.describe()
    settings = [described["settings"], list(request.text_columns), source.kind, prompt_builder.text_column]
    settings += [] if source.quoting is None else [source.quoting]
    return {"input": digest.hexdigest(), "model": described["model"], "settings": settings}


def _build_job(
    source: Source, prompt_builder: PromptBuilder, predictor: Predictor, writer: Any, request: Request
) -> InferenceJob:
    from utils.inference.job import InferenceJob

    return InferenceJob(source, prompt_builder, predictor, writer, Progress(), request.strict)


def _tell_end(work: InferenceJob) -> Answer:
    """Say what was done and what was bad.

    Raises:
        DataError: Not one row could be answered.
    """
    rates = work.progress.finish()
    if work.num_bad == work.num_rows:
        raise DataError(f"none of {work.num_rows} rows could be answered; the first: {work.bad[0]}")
    if work.num_bad:
        shown = "".join(f"\n  {each}" for each in work.bad)
        logger.warning("%d of %d rows could not be answered:%s", work.num_bad, work.num_rows, shown)
    if unknown := work.find_unknown():
        shown = show_characters(unknown)
        logger.warning("the tokenizer does not know these characters, which the model cannot read: %s", shown)
    return {"status": "success", "rows": work.num_rows, "errors": work.num_bad, **rates}


def _require_rows(rows: Iterator[InputRow], source: Source) -> Iterator[InputRow]:
    first = next(rows, None)
    if first is None:
        raise DataError(f"{source.name}: holds no rows")
    return chain([first], rows)


def _print(answer: Mapping[str, Any]) -> None:
    write_data(dump(answer).decode("utf-8") + "\n")
