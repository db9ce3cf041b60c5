"""One call of inference.py from the request to the answers: the model, the rows, and the output."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.sections.generation import GenerationSection
from utils.core.errors import DataError, LoraNsError
from utils.core.json_files import find_object
from utils.core.progress import RowProgress
from utils.core.terminal import write_data
from utils.core.texts import RowError
from utils.data.dataset import describe_classification, describe_instructions
from utils.data.report import show_characters
from utils.data.row_files import explain_unreadable, spool
from utils.generation.server import ServedModel
from utils.inference.chosen_model import choose_generation, open_chosen_model
from utils.inference.partial import PartialFile, dump
from utils.inference.prompt_builder import (
    ChatPromptBuilder,
    PromptBuilder,
    build_chat_prompt_builder,
    build_reward_prompt_builder,
    build_text_prompt_builder,
)
from utils.inference.request import Request, partial_path
from utils.inference.row_io import TABLE_KINDS, InputRow, Source, open_source, read_rows, write_results
from utils.modeling.tokenizer import CONVERSATIONS_KEY
from utils.runs.model_ref import ModelRef, PublishedModel
from utils.runs.serving import find_served
from utils.tasks.probe import PROBE_FILE, read_probes

if TYPE_CHECKING:
    from utils.inference.job import InferenceJob, ResultWriter
    from utils.inference.predictor import Predictor

logger = logging.getLogger(__name__)

_WINDOW_OF_A_STREAM = 128  # rows before standard output gets answers; one at a time on a terminal

Answer = dict[str, Any]


def answer_request(request: Request) -> Answer:
    """Answer a checked request; return the `answers` to texts, or what was written where."""
    model = open_chosen_model(request.choice)
    served = find_served(request.server, request.served_model, model) if request.server is not None else None
    session = _Session(request, model, choose_generation(model, request), served)
    return session.answer_texts() if request.texts else session.answer_rows()


@dataclass(frozen=True)
class _Session:
    """A request with its model."""

    request: Request
    model: ModelRef
    generation: GenerationSection
    served: ServedModel | None = None
    """The server's model that generates in its place."""

    def answer_texts(self) -> Answer:
        """Answer the command line's texts or rows, and print the answers unless one JSON object is requested."""
        from utils.inference.job import OrderedResultWriter

        given = [dict(each) for each in self.request.texts if isinstance(each, Mapping)]
        builder = self._build_prompt_builder(tuple(given[0]) if given else ())
        laid = given or builder.lay_out([each for each in self.request.texts if isinstance(each, str)])
        rows = [InputRow(number, {"row": number}, row) for number, row in enumerate(laid)]
        predictor = self._load_predictor(builder)
        if self.request.stream:
            return _stream(builder, predictor, rows[0])
        answers: list[Mapping[str, Any]] = []
        source = Source(None, ".txt", builder.text_column)
        job = self._build_job(source, builder, predictor, OrderedResultWriter(answers.append))
        job.answer_all(rows)
        if not self.request.as_json:
            for answer in answers:
                _print(answer)
        if job.num_bad == len(rows):
            raise DataError(job.bad[0].replace(f"{source.name}, row ", "--input_text "))
        return {"status": "success", "answers": answers}

    def answer_rows(self) -> Answer:
        """Answer the rows of a file or of standard input, after a check of the first one before a model is loaded."""
        first_source = self._open_source("text")
        first = None
        if first_source.path is not None:
            first = next(read_rows(first_source), None)
            if first is None:
                raise DataError(f"{first_source.name}: the file holds no rows")
        elif sys.stdin.isatty():
            sys.stderr.write("reading standard input; end it with Ctrl-D\n")
        builder = self._build_prompt_builder(tuple(first.row) if first is not None else ())
        source = self._open_source(builder.text_column)
        is_table = first is not None and first.error is None and source.kind in TABLE_KINDS
        if is_table and (problem := builder.find_missing(first.row if first else ())):
            raise DataError(f"{source.name}: {problem}")
        rows = _require_rows(read_rows(source), source)
        if self.request.output_file is None:
            return self._answer_to_output(builder, source, rows)
        return self._answer_to_file(self.request.output_file, builder, source, rows)

    def _answer_to_output(self, builder: PromptBuilder, source: Source, rows: Iterator[InputRow]) -> Answer:
        """Answer rows on standard output, as JSON lines."""
        from utils.inference.job import OrderedResultWriter

        job = self._build_job(source, builder, self._load_predictor(builder), OrderedResultWriter(_print))
        job.window = 1 if source.path is None and sys.stdin.isatty() else _WINDOW_OF_A_STREAM
        job.answer_all(rows)
        return _report_end(job)

    def _answer_to_file(self, name: str, builder: PromptBuilder, source: Source, rows: Iterator[InputRow]) -> Answer:
        """Answer rows into a file that is written atomically; a partial file beside it keeps finished answers."""
        predictor = self._load_predictor(builder)
        identity = self._build_identity(builder, predictor, source)
        partial = PartialFile(partial_path(name), identity)
        job = self._build_job(source, builder, predictor, partial, partial.num_kept)
        try:
            job.answer_all(rows)
            write_results(partial.results, target := Path(name).expanduser())
            partial.remove()
        except (KeyboardInterrupt, LoraNsError):
            job.progress.close()
            if num_done := partial.num_kept + job.progress.num_rows:
                end = "the same command continues" if identity is not None else "standard input cannot be resumed"
                logger.info("%d answers are kept in %s; %s", num_done, partial.path, end)
            raise
        finally:
            partial.close()
        answer = _report_end(job)
        logger.info("%d rows: %s", job.num_rows, target)
        return {**answer, "num_kept": partial.num_kept, "output_file": name}

    def _open_source(self, text_column: str) -> Source:
        """Describe the input, with the quoting of the run's own files unless the command line sets it."""
        quoting = self.request.input_quoting
        if quoting is None and self.model.config is not None:
            quoting = getattr(self.model.config.dataset, "quoting", None)
        return open_source(self.request.input_file, self.request.input_format, text_column, quoting)

    def _build_prompt_builder(self, there: tuple[str, ...]) -> PromptBuilder:
        """Build the prompt builder from the run's dataset and the existing columns."""
        section = self.model.config.dataset if self.model.config is not None else None
        columns = self.request.text_columns
        if self.model.judges:
            assert section is not None, "of a run"
            known, roles = describe_instructions(section), getattr(section, "roles", {})
            return build_reward_prompt_builder(known, roles, _reads_conversations(self.model), columns, there)
        if not self.model.generates:
            described = describe_classification(section) if section is not None else None
            return build_text_prompt_builder(described, columns)
        spec = describe_instructions(section) if section is not None else None
        return build_chat_prompt_builder(spec, columns, there, _reads_conversations(self.model))

    def _load_predictor(self, builder: PromptBuilder) -> Predictor:
        """Load the model, which imports the ML libraries."""
        from utils.inference.predictor import load_predictor

        return load_predictor(self.model, builder, self.generation, self.request.seed, self.served)

    def _build_job(
        self, source: Source, builder: PromptBuilder, predictor: Predictor, writer: ResultWriter, num_kept: int = 0
    ) -> InferenceJob:
        from utils.inference.job import InferenceJob

        # Rows on a terminal show the progress themselves.
        live = self.request.output_file is not None or not sys.stdout.isatty()
        progress = RowProgress("answering", lambda: _count_rows(source), num_kept, live)
        return InferenceJob(source, builder, predictor, writer, progress, self.request.strict)

    def _build_identity(self, builder: PromptBuilder, predictor: Predictor, source: Source) -> dict[str, Any] | None:
        """Return all that determines the answers; None for standard input, which cannot be read again."""
        if source.path is None:
            return None
        digest = hashlib.blake2b(digest_size=16)
        with explain_unreadable(source.name), spool(source.path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        described = predictor.describe()
        settings = [described["settings"], list(self.request.text_columns), source.kind, builder.text_column]
        settings += [] if source.quoting is None else [source.quoting]
        return {"input": digest.hexdigest(), "model": described["model"], "settings": settings}


def _stream(builder: PromptBuilder, predictor: Predictor, row: InputRow) -> Answer:
    from utils.inference.predictor import WritingModel

    assert isinstance(predictor, WritingModel), f"got {type(predictor)}"
    assert isinstance(builder, ChatPromptBuilder), f"got {type(builder)}"
    try:
        answered = predictor.stream(builder.read(row.row), write_data)
    except RowError as error:
        raise DataError(f"--input_text: {error}") from None
    write_data("\n")
    return {"status": "success", "answers": [{**row.row, **answered.answer}]}


def _reads_conversations(model: ModelRef) -> bool | None:
    """Return whether a model was trained on conversations, by its run's probe rows or its tokenizer; None: unknown."""
    if isinstance(model, PublishedModel):
        return None
    if model.run is not None and (model.run / PROBE_FILE).is_file():
        return bool(read_probes(model.run, ("prompt",)).rows[0].get("messages"))
    noted = find_object(model.weights / "tokenizer_config.json").get(CONVERSATIONS_KEY)
    return noted if isinstance(noted, bool) else None


def _report_end(job: InferenceJob) -> Answer:
    """Report finished and bad rows; raise an error if no row could be answered."""
    rates = _close(job.progress)
    if job.num_bad == job.num_rows:
        raise DataError(f"none of {job.num_rows} rows could be answered; the first: {job.bad[0]}")
    if job.num_bad:
        shown = "".join(f"\n  {each}" for each in job.bad)
        logger.warning("%d of %d rows could not be answered:%s", job.num_bad, job.num_rows, shown)
    if unknown := job.find_unknown():
        shown = show_characters(unknown)
        logger.warning("the tokenizer does not know these characters, which the model cannot read: %s", shown)
    return {"status": "success", "rows": job.num_rows, "errors": job.num_bad, **rates}


def _close(progress: RowProgress) -> dict[str, float]:
    """Report the finished rows; return the rates."""
    progress.close()
    if progress.num_rows:
        logger.info("%s rows done, %s", f"{progress.num_done:,}", progress.describe_rates())
    rates = {"rows_per_s": progress.num_rows, "tokens_per_s": progress.num_tokens}
    seconds = progress.seconds
    return {"seconds": round(seconds, 3), **{name: round(count / seconds, 1) for name, count in rates.items()}}


def _count_rows(source: Source) -> int | None:
    """Count the rows of a file by reading it; None for standard input."""
    return None if source.path is None else sum(1 for _ in read_rows(source))


def _require_rows(rows: Iterator[InputRow], source: Source) -> Iterator[InputRow]:
    first = next(rows, None)
    if first is None:
        raise DataError(f"{source.name}: holds no rows")
    return chain([first], rows)


def _print(answer: Mapping[str, Any]) -> None:
    write_data(dump(answer).decode("utf-8") + "\n")
