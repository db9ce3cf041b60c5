"""Classifying rows in batches of similar length: the same answers as one by one, in the rows' order."""

from __future__ import annotations

import pytest

from utils.generation.classification import Classified, TextClassifier


@pytest.fixture
def build(prepare_run):
    """Return a function that builds a classifier on a tiny untrained model, with its run."""

    def run(family: str, names: tuple[str, ...] = ("no", "yes"), **keys):
        prepared = prepare_run(family)
        keys = {"max_length": 32, **keys}
        return TextClassifier(prepared.model, prepared.tokenizer, names, **keys), prepared

    return run


def _alone(prepared, *texts):
    import torch

    batch = prepared.tokenizer(*[[text] for text in texts], truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        return prepared.model.eval()(**batch).logits[0].softmax(-1).tolist()


@pytest.mark.parametrize("family", ["bert", "llama", "qwen2", "distilbert", "roberta"])
@pytest.mark.parametrize("max_batch_tokens", [1, 64, 8192])
def test_batched_answers_equal_single_row_answers(build, draw_rows, family, max_batch_tokens):
    classifier, prepared = build(family, max_batch_tokens=max_batch_tokens)
    texts = [row["text"] for row in draw_rows(13)]
    answers = list(classifier.classify((text,) for text in texts))
    for text, answer in zip(texts, answers, strict=True):
        expected = _alone(prepared, text)
        assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        assert answer.label == ("no", "yes")[expected.index(max(expected))]
        assert sum(answer.probabilities.values()) == pytest.approx(1.0)


def test_text_pairs_and_more_rows_than_a_chunk(build):
    classifier, prepared = build("bert")
    rows = [(f"w{index % 50} good", f"w{index % 7}") for index in range(1030)]
    answers = list(classifier.classify(rows))
    assert len(answers) == 1030
    for index in (0, 1023, 1024, 1029):
        assert list(answers[index].probabilities.values()) == pytest.approx(_alone(prepared, *rows[index]), abs=1e-5)


def test_rows_are_read_lazily(build):
    classifier, _ = build("bert")
    read = []

    def rows():
        for index in range(5000):
            read.append(index)
            yield (f"w{index % 50}",)

    next(classifier.classify(rows()))
    assert len(read) <= 1025


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "bert"])
def test_empty_texts_get_an_answer(build, family):
    classifier, _ = build(family)
    assert len(list(classifier.classify([("",), ("",)]))) == 2
    assert list(classifier.classify([])) == []


def test_a_truncated_row_is_marked(build):
    classifier, _ = build("bert", max_length=5)
    answers = list(classifier.classify([("w1 w2 w3",), ("w1 w2 w3 w4",)]))
    assert [answer.truncated for answer in answers] == [False, True]
    assert "truncated" in answers[1].to_dict()
    assert "truncated" not in answers[0].to_dict()


def test_regression_returns_a_value(prepare_run, make_set, draw_rows):
    rows = [{**row, "label": float(index)} for index, row in enumerate(draw_rows(8))]
    run = prepare_run("bert", make_set("r", train=rows, validation=rows), dataset__num_labels=1)
    (answer,) = TextClassifier(run.model, run.tokenizer, (), 32).classify([("good w1",)])
    assert list(answer.to_dict()) == ["value"]
    assert isinstance(answer.value, float)


def test_inputs_the_model_does_not_accept_are_dropped(build):
    """A generic tokenizer returns token_type_ids, which DistilBERT refuses."""
    classifier, prepared = build("distilbert")
    prepared.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert len(list(classifier.classify([("good w1",), ("bad",)]))) == 2


def test_an_answer_as_a_mapping():
    answer = Classified("yes", {"no": 0.25, "yes": 0.75}, None, False)
    assert answer.to_dict() == {"label": "yes", "probabilities": {"no": 0.25, "yes": 0.75}}


def test_batches_do_not_depend_on_rows_already_done(build, draw_rows):
    classifier, _ = build("bert", max_batch_tokens=64)
    rows = [(row["text"],) for row in draw_rows(29)]
    batches = list(classifier.classify_batches(rows))
    assert sorted(place for batch in batches for place, _ in batch) == list(range(29))
    lengths = [answer.num_tokens for batch in batches for _, answer in batch]
    assert lengths == sorted(lengths, reverse=True)
    done = {place for place, _ in batches[1]} | {batches[0][0][0]}
    assert list(classifier.classify_batches(rows, done)) == [batches[0], *batches[2:]]
    assert list(classifier.classify_batches([])) == []


def test_parallel_batches_answer_like_sequential_ones(build, draw_rows):
    import threading

    import torch

    classifier, prepared = build("llama", max_batch_tokens=64)
    rows = [(row["text"],) for row in draw_rows(40)]
    names, before = set(), torch.get_num_threads()
    hook = prepared.model.register_forward_pre_hook(lambda *_: names.add(threading.current_thread().name))
    try:
        torch.set_num_threads(1)
        expected = list(classifier.classify_batches(rows))
        assert names == {threading.current_thread().name}
        names.clear()
        torch.set_num_threads(3)
        assert list(classifier.classify_batches(rows)) == expected
        assert threading.current_thread().name not in names
        stopped = classifier.classify_batches(rows)
        next(stopped)
        stopped.close()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
        hook.remove()


def test_a_batch_that_runs_out_of_memory_is_halved(build, draw_rows, caplog):
    import torch

    classifier, prepared = build("bert")
    rows = [(row["text"],) for row in draw_rows(13)]
    expected = list(classifier.classify(rows))
    sizes = []

    def refuse(module, args, kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError("no room")

    limit = 3
    hook = prepared.model.register_forward_pre_hook(refuse, with_kwargs=True)
    answers = list(classifier.classify(rows))
    for answer, other in zip(answers, expected, strict=True):
        assert answer.label == other.label
        assert answer.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert sum(size for size in sizes if size <= 3) == 13
    assert "13 rows at once do not fit into memory; trying 7" in caplog.text
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        list(classifier.classify(rows))
    hook.remove()


def test_logits_that_are_not_finite_are_refused(build):
    import torch

    from utils.core.errors import ModelError

    classifier, prepared = build("bert")
    torch.nn.init.constant_(prepared.model.classifier.bias, float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        list(classifier.classify([("w1",)]))
