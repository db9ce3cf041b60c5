"""Classifies a user's texts with a trained run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from utils.data.dataset import ClassificationSection, DatasetSection, open_dataset
from utils.errors import UserError
from utils.generation.classification import TextClassifier
from utils.inference.rows import Row, check_paths, read_rows, write_answers
from utils.run_folder.reading import TrainedModel, read_run_folder

if TYPE_CHECKING:
    from utils.run_config import RunConfig


_ANSWER_KEYS = frozenset({"label", "value", "probabilities", "truncated"})


class RunClassifier:
    """A trained classification run, ready for texts.

    Args:
        run: The run folder, its final_model/ or a checkpoint.

    Raises:
        UserError: The folder holds no classification run.
    """

    def __init__(self, run: str) -> None:
        trained = read_run_folder(run)
        self.columns = text_columns(trained.config)
        self._classifier = _build_classifier(trained)

    def classify(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Give every row with its answer, lazily and in order; a row's own label is kept as input_label."""
        from itertools import tee

        kept, read = tee(rows)
        texts = (tuple(str(row[column]) for column in self.columns) for row in read)
        for row, answer in zip(kept, self._classifier.classify(texts), strict=True):
            given = answer.to_dict()
            yield {**{f"input_{key}" if key in _ANSWER_KEYS else key: value for key, value in row.items()}, **given}

    def classify_texts(self, texts: list[str]) -> list[Row]:
        """Classify texts from the command line; a set with two columns takes them by pairs.

        Raises:
            UserError: The number of texts does not fit the columns.
        """
        width = len(self.columns)
        if len(texts) % width:
            names = ", ".join(self.columns)
            raise UserError(
                f"the run reads {width} texts per row ({names}); give --input_text {width} times for each row"
            )
        rows = [dict(zip(self.columns, texts[at : at + width], strict=True)) for at in range(0, len(texts), width)]
        return list(self.classify(rows))

    def classify_file(self, source: str, target: str) -> int:
        """Classify a file's rows into another; gives the number of rows."""
        check_paths(source, target)
        count = 0
        with write_answers(target) as writer:
            for row in self.classify(read_rows(source, self.columns)):
                writer.write(row)
                count += 1
        return count


def text_columns(config: RunConfig) -> tuple[str, ...]:
    """Name the columns that the run was trained on.

    Raises:
        UserError: It is no classification run.
    """
    if config.task_type != "SEQ_CLS":
        raise UserError(f"{config.task_name} is a {config.task_type} run; only SEQ_CLS runs can be used here so far")
    return open_dataset(config.dataset.name).describe_classification(config.dataset).text_columns


def _build_classifier(trained: TrainedModel) -> TextClassifier:
    import torch

    model, tokenizer = trained.load()
    if torch.cuda.is_available() and trained.config.model.quantization is None and not trained.config.model.device_map:
        placed: Any = model.to("cuda")
        model = placed
    return TextClassifier(model, tokenizer, trained.label_names, _max_length(trained.config.dataset))


def _max_length(section: DatasetSection) -> int:
    assert isinstance(section, ClassificationSection), f"got {type(section)}"
    return section.max_length
