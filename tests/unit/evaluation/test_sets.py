"""Evaluation sets use the run's own prompt, whatever their dataset; what cannot be scored is reported first."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.config.sections.evaluation import EvaluationSection
from utils.config.sections.generation import GenerationSection
from utils.core.errors import ConfigError, DataError
from utils.evaluation.sets import AnswerSettings, EvaluationSet, load_evaluation_sets
from utils.metrics import pass_at_k

META_MATH_OPENING = "Below is an instruction that describes a task."


@pytest.fixture
def load(encoder: Any) -> Callable[..., list[EvaluationSet]]:
    def load(
        own: tuple[Any, Any], window: int | None = None, temperature: float = 0.0, **evaluation: Any
    ) -> list[EvaluationSet]:
        answers = AnswerSettings(GenerationSection(max_new_tokens=16, temperature=temperature), window)
        return load_evaluation_sets(EvaluationSection.model_validate(evaluation), *own, encoder, 42, answers)

    return load


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_runs_own_set_is_its_test_split_with_its_prompt(
    load: Callable[..., Any], describe: Callable[..., Any], arithmetic: Path, encoder: Any
) -> None:
    [known] = load(describe("gsm8k", path=arithmetic))
    rows = read(arithmetic / "test.jsonl")
    assert (known.label, known.num_total, len(known.prompts)) == ("gsm8k", 300, 300)
    assert known.references == [row["answer"] for row in rows]
    expected = [encoder.tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"] for row in rows]
    assert known.prompts == expected
    assert known.metrics[0] == "em_strict"
    assert known.stop == ("Question:",)
    assert known.ids[4].endswith("test.jsonl:5")


def test_another_file_of_the_runs_folder(
    load: Callable[..., Any], describe: Callable[..., Any], arithmetic: Path
) -> None:
    unseen = arithmetic / "test_unseen.jsonl"
    entries = ["gsm8k", {"name": "gsm8k", "path": str(unseen), "label": "unseen"}, str(unseen)]
    own = describe("gsm8k", path=arithmetic, prompt_template="Q: {question} A:")
    first, second, third = load(own, sets=entries)
    assert [each.label for each in (first, second, third)] == ["gsm8k", "unseen", "test_unseen"]
    assert (len(first.prompts), len(second.prompts)) == (300, 200)
    assert second.prompts == third.prompts
    assert (second.prompt_hash, second.fingerprint) == (third.prompt_hash, third.fingerprint)
    assert first.prompt_hash != second.prompt_hash
    assert first.fingerprint != second.fingerprint


def test_another_dataset_gets_the_runs_prompt(
    load: Callable[..., Any],
    describe: Callable[..., Any],
    arithmetic: Path,
    make_set: Callable[..., Path],
    encoder: Any,
) -> None:
    row = {"type": "GSM_Rephrased", "query": "2 plus 3?", "original_question": "2+3?", "response": "5\n#### 5"}
    own = describe("metamathqa", path=make_set(train=[row] * 3), validation_size=0)
    [known] = load(own, sets=[{"name": "gsm8k", "path": str(arithmetic), "split": "test[:10]"}])
    [plain] = load(describe("gsm8k", path=arithmetic), sets=[{"name": "gsm8k", "split": "test[:10]"}])
    assert known.references == plain.references
    assert known.protocol == plain.protocol
    assert (known.num_total, known.stop) == (10, own[0].stop)
    assert known.prompt_hash != plain.prompt_hash
    questions = [row["question"] for row in read(arithmetic / "test.jsonl")[:10]]
    for ids, question in zip(known.prompts, questions, strict=True):
        assert ids == encoder.encode_prompt(own[0].ask(question))
        text = encoder.tokenizer.decode(ids, skip_special_tokens=True)
        assert text.startswith(META_MATH_OPENING)
        assert question in text


def test_fewer_rows_and_other_metrics(load: Callable[..., Any], describe: Callable[..., Any], arithmetic: Path) -> None:
    own = describe("gsm8k", path=arithmetic)
    [known] = load(own, max_samples=7, sets=[{"name": "gsm8k", "metrics": ["rouge-l", "em_strict"]}])
    assert (len(known.prompts), len(known.ids), known.num_total) == (7, 7, 300)
    assert known.metrics == ("rouge_l", "em_strict")
    [limited] = load(describe("gsm8k", path=arithmetic, max_eval_samples=5))
    assert (len(limited.prompts), limited.num_total) == (5, 300)


def test_long_prompts_are_cut_and_counted(
    load: Callable[..., Any], describe: Callable[..., Any], arithmetic: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = describe("gsm8k", path=arithmetic)
    [whole] = load(own)
    limit = sorted(map(len, whole.prompts))[-10]
    with caplog.at_level(logging.WARNING):
        [cut] = load(own, max_prompt_length=limit)
    num_longer = sum(len(ids) > limit for ids in whole.prompts)
    assert cut.num_cut == num_longer > 0
    assert max(map(len, cut.prompts)) <= limit
    assert f"{num_longer} of 300 prompts are longer than {limit} tokens; their middle was cut out" in caplog.text
    assert whole.prompt_hash == cut.prompt_hash
    assert whole.num_cut == 0


def test_sets_that_cannot_be_loaded_are_reported(
    load: Callable[..., Any], describe: Callable[..., Any], arithmetic: Path, make_set: Callable[..., Path]
) -> None:
    own = describe("gsm8k", path=arithmetic)
    with pytest.raises(ConfigError, match=r"no dataset, file or folder called gsm9k; did you mean gsm8k\?"):
        load(own, sets=["gsm9k"])
    with pytest.raises(ConfigError, match=r"called xyz; use one of: .*gsm8k"):
        load(own, sets=["xyz"])
    with pytest.raises(ConfigError, match=r"longbench: subsets: no subset of LongBench is called trek; .*trec\?"):
        load(own, sets=[{"name": "longbench", "subsets": ["trek"]}])
    with pytest.raises(ConfigError, match="glue is for task_type: SEQ_CLS, not CAUSAL_LM"):
        load(own, sets=["glue"])
    with pytest.raises(ConfigError, match=r"evaluation.sets: custom: path"):
        load(own, sets=["custom"])
    with pytest.raises(DataError, match="no split called dev"):
        load(own, sets=[{"name": "gsm8k", "split": "dev"}])
    pairs = make_set(test=[{"context": "a", "question": "b", "answer": "c"}] * 2)
    two_texts = describe("custom", path=pairs, prompt_template="{context} {question}", test_split="test")
    with pytest.raises(DataError, match="the run's prompt is made of more than one text"):
        load(two_texts, sets=[{"name": "gsm8k", "path": str(arithmetic)}])
    with pytest.raises(DataError, match="test_split: no reference has an answer for the metric em_strict"):
        load(two_texts, sets=[{"name": "custom", "label": "test_split", "metrics": ["em_strict"]}])


@pytest.mark.parametrize("on_bad_row", ["stop", "drop"])
def test_rows_the_chat_template_refuses_raise_or_are_dropped(
    load: Callable[..., Any], describe: Callable[..., Any], make_set: Callable[..., Path], encoder: Any,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, on_bad_row: str,
) -> None:  # fmt: skip
    template = "{% for m in messages %}{{ raise_exception('no') if m.content == 'b' else m.content }}{% endfor %}"
    monkeypatch.setattr(encoder.tokenizer, "chat_template", template + "{{ eos_token }}")
    said = [[{"role": "user", "content": text}, {"role": "assistant", "content": text * 2}] for text in "abc"]
    path = make_set(test=[{"messages": turns} for turns in said])
    own = describe("custom", path=path, format="messages", test_split="test", on_bad_row=on_bad_row)
    if on_bad_row == "stop":
        with pytest.raises(DataError, match="refuses the conversation: no"):
            load(own)
        return
    [known] = load(own)
    assert (known.references, len(known.prompts), known.num_total) == (["aa", "cc"], 2, 3)
    assert "1 rows cannot be asked and are left out" in caplog.text


def test_references_without_an_answer_are_counted(
    load: Callable[..., Any], describe: Callable[..., Any], make_set: Callable[..., Path], caplog: Any
) -> None:
    answers = ["#### 1", "none here", "#### 2"]
    folder = make_set(test=[{"question": f"q{index}", "answer": each} for index, each in enumerate(answers)])
    [known] = load(describe("gsm8k", path=folder))
    assert len(known.references) == 3
    assert "gsm8k: 1 of 3 references have no answer for em_strict; it is the mean over the others" in caplog.text


def test_prompt_characters_unknown_to_the_tokenizer_are_reported(
    describe: Callable[..., Any],
    make_set: Callable[..., Path],
    load_tokenizer_of: Callable[[str], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    from utils.data.encoding import ExampleEncoder

    path = make_set(test=[{"question": text, "answer": "#### 5"} for text in ("good % w1", "w2 w3", "bad %")])
    own = describe("gsm8k", path=path, prompt_template="{question} w4")
    load_evaluation_sets(EvaluationSection(), *own, ExampleEncoder(load_tokenizer_of("llama"), 64), 42)
    assert "gsm8k: the tokenizer does not know these characters of the prompts: % (the first in 2 rows)" in caplog.text


def test_several_answers_to_each_prompt(
    load: Callable[..., Any], describe: Callable[..., Any], arithmetic: Path
) -> None:
    own = describe("gsm8k", path=arithmetic)
    with pytest.raises(ConfigError, match=r"3 answers at generation\.temperature 0 are all the same"):
        load(own, num_return_sequences=3)
    [once] = load(own, max_samples=4)
    [known] = load(own, max_samples=4, num_return_sequences=3, temperature=1.0)
    assert [list(prompt) for prompt in known.prompts] == [list(each) for each in once.prompts for _ in range(3)]
    assert (known.ids[3:6], known.num_answers, known.num_total) == ([once.ids[1]] * 3, 3, 300)


def test_programs_need_consent_and_enough_answers(
    load: Callable[..., Any], describe: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pass_at_k._Consent, "given", False)
    row = {"task_id": "a", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f): pass"}
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps(row) + "\n")
    own = describe("gsm8k", path="unused")
    entry = {"name": "humaneval", "path": str(file)}
    with pytest.raises(ConfigError, match="pass_at_1 of humaneval runs the programs that the model writes"):
        load(own, sets=[entry])
    with pytest.raises(ConfigError, match="pass_at_10 of humaneval needs at least 10 answers per prompt"):
        load(own, sets=[{**entry, "metrics": ["pass_at_10"]}], allow_code_execution=True)
    [known] = load(own, sets=[entry], allow_code_execution=True)
    assert known.references == [{"before": "def f():\n", "tests": "def check(f): pass\ncheck(f)"}]
    assert pass_at_k._Consent.given


def test_an_evaluation_set_can_have_its_own_prompt(
    load: Callable[..., Any], describe: Callable[..., Any], arithmetic: Path, make_set: Any, encoder: Any
) -> None:
    row = {"type": "GSM_SV", "query": "2 + 3?", "original_question": "2 + 3?", "response": "The answer is: 5"}
    own = describe("metamathqa", path=make_set(train=[row] * 3), validation_size=0)
    [known] = load(own, sets=[{"name": "gsm8k", "path": str(arithmetic)}])
    [other] = load(own, sets=[{"name": "gsm8k", "path": str(arithmetic)}], prompt_template="Solve {query} =")
    question = read(arithmetic / "test.jsonl")[0]["question"]
    assert other.prompts[0] == encoder.tokenizer(f"Solve {question} =")["input_ids"]
    assert other.prompt_hash != known.prompt_hash
    assert other.facts["prompt_template"] == "Solve {query} ="
    assert "prompt_template" not in known.facts
    assert other.stop == ()
    with pytest.raises(ConfigError, match=r"evaluation\.prompt_template: the prompt can be made of one column"):
        load(own, prompt_template="{response}")
