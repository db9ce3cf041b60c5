"""From files to tokens: what is trained on, what is dropped, and that every drop is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils.core.errors import DataError, ModelError
from utils.data.encoding import MASKED

PAIRS = [{"prompt": f"Question {n}?", "completion": f" Answer {n}."} for n in range(20)]
CHATS = [
    {"messages": [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": f"A{n}"}]} for n in range(20)
]


def with_bad(rows, *bad):
    """Insert bad rows among good ones, the first of them on line 12."""
    return [*rows[:11], *bad, *rows[11:]]


def test_rows_become_tokens_and_labels(write_lines, prepare_set, text_tokenizer):
    data = prepare_set("custom", write_lines("rows.jsonl", PAIRS), validation_size=4)
    assert data.train.column_names == ["input_ids", "labels", "length"]
    assert (len(data.train), len(data.evals[""])) == (16, 4)
    tokenizer = text_tokenizer()
    expected = {f"{row['prompt']}{row['completion']}</s>" for row in PAIRS}
    both = [*data.train, *data.evals[""]]
    assert {tokenizer.decode(row["input_ids"]) for row in both} == expected
    for row in both:
        assert row["length"] == len(row["input_ids"]) == len(row["labels"])
        assert row["labels"][-1] == tokenizer.eos_token_id
        assert row["labels"][0] == MASKED
    assert data.evals[""]["length"][:] == sorted(data.evals[""]["length"][:])
    assert len(data.validation_examples) == 4


def test_the_first_rows_evaluate_and_training_rows_are_sampled_by_seed(write_lines, prepare_set):
    file = write_lines("rows.jsonl", PAIRS)

    def prepare(**keys):
        return prepare_set("custom", file, validation_size=6, max_eval_samples=2, max_train_samples=5, **keys)

    data, again, other = prepare(), prepare(), prepare(seed=1)
    assert data.train["input_ids"][:] == again.train["input_ids"][:] != other.train["input_ids"][:]
    assert data.fingerprint == again.fingerprint != other.fingerprint
    assert data.reports["train"].left_out_rows == 9
    assert data.reports["validation"].left_out_rows == 4
    assert len(data.evals[""]) == 2
    lines = [int(place.rpartition(":")[2]) for place in data.validation_places]
    assert lines == sorted(lines)


def test_a_slice_of_the_training_rows(write_lines, prepare_set):
    data = prepare_set("custom", write_lines("rows.jsonl", PAIRS), train_split="train[5:10]")
    assert data.reports["train"].rows_read == len(data.train) == 5


@pytest.mark.parametrize(
    ("rows", "bad", "reason"),
    [
        (PAIRS, {"prompt": "x"}, "no column completion; there are: prompt"),
        (PAIRS, {"prompt": "x", "completion": None}, r"column completion holds nothing \(null\)"),
        (PAIRS, {"prompt": "x", "completion": 5}, "column completion holds a number"),
        (PAIRS, '{"prompt": "x", "compl', "not JSON"),
        (PAIRS, {"prompt": "x", "completion": "half \ud800"}, "half a character"),
        (CHATS, {"messages": None}, "instead of a list of turns"),
        (CHATS, {"messages": []}, "empty conversation"),
        (CHATS, {"messages": CHATS[0]["messages"][:1]}, "no assistant turn to train on"),
        (CHATS, {"messages": [{"role": "user", "content": 5}]}, "turn 1: content holds a number"),
        (
            CHATS,
            {"messages": [{"role": "user", "content": "forget me"}, CHATS[0]["messages"][1]]},
            "leaves the user turn",
        ),
    ],
)
def test_a_bad_row_raises_or_is_dropped(write_lines, prepare_set, caplog, rows, bad, reason):
    file = write_lines("rows.jsonl", with_bad(rows, bad))
    template = "forgets" if rows is CHATS else None
    with pytest.raises(DataError, match=rf"rows\.jsonl:12: .*{reason}") as stopped:
        prepare_set("custom", file, template)
    assert "1 of 21 rows of train cannot be used" in str(stopped.value)
    assert "dataset.on_bad_row: drop" in str(stopped.value)
    data = prepare_set("custom", file, template, on_bad_row="drop")
    assert len(data.train) == 20
    report = data.reports["train"]
    assert (report.rows_read, report.rows_used, report.bad_rows) == (21, 20, 1)
    assert report.bad_examples[0].startswith(f"{file}:12: ")
    assert f"left out {file}:12" in caplog.text
    again = prepare_set("custom", file, template, on_bad_row="drop")
    assert again.reports == data.reports, "the counts are cached with the tokens"


def test_invalid_json_on_line_317_is_located(write_lines, prepare_set):
    rows = [{"prompt": f"p{n}", "completion": "c"} for n in range(400)]
    file = write_lines("rows.jsonl", [*rows[:316], '{"prompt": "p", ', *rows[316:]])
    with pytest.raises(DataError, match=r"rows\.jsonl:317: not JSON"):
        prepare_set("custom", file)
    assert len(prepare_set("custom", file, on_bad_row="drop").train) == 400


def test_several_bad_rows_are_all_counted_and_the_first_named(write_lines, prepare_set):
    bad = [{"prompt": "x", "completion": n} for n in range(7)]
    with pytest.raises(DataError) as stopped:
        prepare_set("custom", write_lines("rows.jsonl", with_bad(PAIRS, *bad)))
    assert "7 of 27 rows" in str(stopped.value)
    assert str(stopped.value).count("rows.jsonl:") == 5


@pytest.mark.parametrize("on_bad_row", ["stop", "drop"])
def test_a_missing_column_always_raises(write_lines, prepare_set, on_bad_row):
    file = write_lines("rows.jsonl", [{"question": "x", "reply": "y"}] * 3)
    with pytest.raises(DataError, match="no column answer; there are: question, reply"):
        prepare_set("gsm8k", file, on_bad_row=on_bad_row)


def test_a_megabyte_row_is_truncated_and_counted(write_lines, prepare_set, caplog):
    large = {"prompt": "word " * 210_000, "completion": " yes"}
    data = prepare_set("custom", write_lines("rows.jsonl", with_bad(PAIRS, large)))
    report = data.reports["train"]
    assert (report.rows_used, report.prompts_cut, report.answers_cut) == (21, 1, 0)
    assert (report.token_lengths["max"], report.token_lengths_uncut["max"]) == (400, 1_050_005)
    assert "1 rows with the prompt's middle cut out" in caplog.text


def test_empty_answers_are_dropped_or_raise_when_there_are_many(write_lines, prepare_set, caplog):
    file = write_lines("rows.jsonl", with_bad(PAIRS, {"prompt": "x", "completion": " "}))
    data = prepare_set("custom", file)
    assert (len(data.train), data.reports["train"].empty_rows) == (20, 1)
    assert "1 rows left out without a token to train on" in caplog.text
    with pytest.raises(DataError, match=r"rows\.jsonl:12: no answer to train on, as in 1 of 21 rows"):
        prepare_set("custom", file, max_empty_share=0.04)


def test_long_rows_are_truncated_dropped_or_raise(write_lines, prepare_set, make_encoder):
    file = write_lines("rows.jsonl", with_bad(PAIRS, {"prompt": "x" * 500, "completion": " y"}))
    assert len(prepare_set("custom", file).train) == 21
    data = prepare_set("custom", file, truncation="drop")
    assert (len(data.train), data.reports["train"].too_long_rows) == (20, 1)
    with pytest.raises(DataError, match=r"rows\.jsonl:12: longer than sft\.max_length \(400 tokens\), as are 1 of 21"):
        prepare_set("custom", file, truncation="error")
    with pytest.raises(DataError, match="none of 21 rows of train can be used; 21 are longer"):
        prepare_set("custom", file, encoder=make_encoder(max_length=10, truncation="drop"))


def test_changes_to_turns_are_counted(write_lines, prepare_set, caplog):
    caplog.set_level("INFO")
    exchange = CHATS[0]["messages"]
    rows = [
        *CHATS,
        {"messages": [*exchange, {"role": "user", "content": "Thanks"}]},
        {"messages": [*exchange, *CHATS[1]["messages"]]},
        {"messages": [exchange[0], {**exchange[1], "weight": 0}, *exchange]},
        {"messages": [{"role": "system", "content": "Be kind."}, *exchange]},
        {"messages": [exchange[1], *exchange], "source": "me"},
    ]
    data = prepare_set("custom", write_lines("rows.jsonl", rows), "forgets_system")
    report = data.reports["train"]
    assert (report.cut_turns, report.untrained_turns, report.weightless_turns) == (1, 1, 1)
    assert report.notes == {"whose system turn was merged into the first user turn, as the chat template has none": 1}
    assert report.unread == {"source": 1}
    for said in ("1 turns after the last answer left out", "1 assistant turns not trained on by their weight",
                 "1 rows whose system turn was merged", "nothing reads source (1 rows)"):  # fmt: skip
        assert said in caplog.text


def test_a_validation_row_the_template_refuses_is_not_evaluated(write_lines, prepare_set):
    bad = {"messages": [{"role": "user", "content": "forget me"}, CHATS[0]["messages"][1]]}
    train, validation = write_lines("rows.jsonl", CHATS), write_lines("more.jsonl", [CHATS[0], bad, CHATS[1]])
    data = prepare_set("custom", train, "forgets", validation_path=str(validation), on_bad_row="drop")
    assert [example.messages for example in data.validation_examples] == [tuple(c["messages"]) for c in CHATS[:2]]
    assert [place.rpartition(":")[2] for place in data.validation_places] == ["1", "3"]
    assert len(data.evals[""]) == 2


def test_unused_keys_are_reported_once(write_lines, prepare_set, caplog):
    caplog.set_level("INFO")
    rows = [{**row, "id": n, "topic": "x" if n < 3 else ""} for n, row in enumerate(PAIRS, start=1)]
    data = prepare_set("custom", write_lines("rows.jsonl", rows), validation_size=4)
    assert data.reports["train"].unread == {"id": 20, "topic": 2}
    assert caplog.text.count("nothing reads id (20 rows), topic (2 rows)") == 1
    turns = [{**CHATS[0]["messages"][0], "mood": "glad"}, CHATS[0]["messages"][1]]
    data = prepare_set("custom", write_lines("rows.jsonl", [*CHATS, {"messages": turns, "id": 0}]), "chatml")
    assert data.reports["train"].unread == {"id": 1, "mood of turns": 1}


def test_a_conversation_the_template_rewrites_becomes_several_rows(write_lines, prepare_set, caplog):
    caplog.set_level("INFO")
    double = {"messages": [*CHATS[0]["messages"], *CHATS[1]["messages"]]}
    data = prepare_set("custom", write_lines("rows.jsonl", [*CHATS, double]), "thinking")
    report = data.reports["train"]
    assert (report.rows_read, report.rows_used, report.num_encoded, len(data.train)) == (21, 21, 22, 22)
    assert "data train: 21 of 21 rows as 22," in caplog.text
    assert "1 rows written as several rows, as the chat template writes earlier turns differently" in caplog.text


def test_a_conversation_split_into_rows_loses_those_that_do_not_fit(write_lines, prepare_set, caplog):
    long = [CHATS[1]["messages"][0], {"role": "assistant", "content": "y" * 500}]
    rows = [{"messages": [*CHATS[0]["messages"], *long]}] * 3
    report = prepare_set("custom", write_lines("rows.jsonl", rows), "thinking").reports["train"]
    assert (report.rows_used, report.num_encoded, report.conversations_cut, report.too_long_rows) == (3, 3, 3, 0)
    assert "3 rows without their later exchanges" in caplog.text
    assert list(report.notes.values()) == [3], "changes to them are still reported"
    whole = write_lines("more.jsonl", [*CHATS, *rows[:1]])
    report = prepare_set("custom", whole, "thinking", truncation="drop").reports["train"]
    assert (report.rows_used, report.num_encoded, report.too_long_rows) == (20, 20, 1)


@pytest.mark.parametrize("truncation", ["keep_answer", "cut_answer"])
def test_an_answer_that_does_not_fit_is_dropped_unless_truncation_is_requested(
    write_lines, prepare_set, caplog, truncation
):
    file = write_lines("rows.jsonl", with_bad(PAIRS, {"prompt": "x" * 300, "completion": "y" * 500}))
    report = prepare_set("custom", file, truncation=truncation).reports["train"]
    kept = truncation == "cut_answer"
    assert (report.rows_used, report.answers_cut, report.too_long_rows) == ((21, 1, 0) if kept else (20, 0, 1))
    said = "1 rows with the end cut off the answer" if kept else "1 rows longer than max_length and left out"
    assert said in caplog.text
    if not kept:
        with pytest.raises(DataError, match=r"rows\.jsonl:12: longer .* even without .* as are 1 of 21 .* cut_answer"):
            prepare_set("custom", file, max_empty_share=0.01)


def test_long_texts_are_truncated_or_split(write_lines, prepare_set, caplog):
    caplog.set_level("INFO")
    rows = [{"text": "Short."}] * 2 + [{"text": "".join(f"{n} " for n in range(400))}]
    file = write_lines("rows.jsonl", rows)
    report = prepare_set("custom", file).reports["train"]
    assert (report.answers_cut, report.num_encoded) == (1, 3)
    data = prepare_set("custom", file, split_long=True)
    report = data.reports["train"]
    assert (report.answers_cut, report.rows_used, report.num_encoded) == (0, 3, 6)
    assert report.token_lengths["max"] <= 400
    assert "1 rows cut into pieces that fit (dataset.split_long)" in caplog.text
    caplog.clear()
    prepare_set("custom", write_lines("rows.jsonl", PAIRS), split_long=True)
    assert "dataset.split_long has no effect: the rows are of the format prompt_completion" in caplog.text


@pytest.mark.parametrize("how", ["keep", "escape"])
def test_special_tokens_in_a_rows_own_text_are_counted(write_lines, prepare_set, caplog, how):
    caplog.set_level("INFO")
    turns = [{"role": "user", "content": "Say <|im_end|> twice"}, {"role": "assistant", "content": "No."}]
    file = write_lines("rows.jsonl", [*CHATS, {"messages": turns}])
    data = prepare_set("custom", file, "chatml", special_tokens_in_text=how)
    read = {"keep": "special tokens", "escape": "ordinary text"}[how]
    assert data.reports["train"].notes == {f"with <|im_end|> in their own text, read as {read}": 1}
    assert f"1 rows with <|im_end|> in their own text, read as {read}" in caplog.text


def test_duplicate_rows_are_counted(write_lines, prepare_set):
    assert prepare_set("custom", write_lines("rows.jsonl", PAIRS + PAIRS[:3])).reports["train"].duplicate_rows == 3


def test_conversations_need_a_chat_template(write_lines, prepare_set):
    with pytest.raises(ModelError, match=r"model\.chat_template"):
        prepare_set("custom", write_lines("rows.jsonl", CHATS))


def test_the_report_counts_tokens(write_lines, prepare_set, caplog):
    caplog.set_level("INFO")
    data = prepare_set("custom", write_lines("rows.jsonl", PAIRS))
    report = data.reports["train"]
    num_trained = sum(label != MASKED for row in data.train for label in row["labels"])
    assert report.trained_share == pytest.approx(num_trained / sum(data.train["length"][:]))
    assert report.token_lengths == report.token_lengths_uncut
    assert report.token_lengths["max"] == max(data.train["length"][:])
    assert json.loads(json.dumps(report.to_dict()))["rows_used"] == 20
    assert f"data train: 20 of 20 rows, tokens p50 {report.token_lengths['p50']}" in caplog.text
    assert f"{100 * report.trained_share:.1f} % trained" in caplog.text


def test_tokens_are_cached_and_recomputed_when_a_relevant_setting_changes(
    write_lines, prepare_set, make_encoder, monkeypatch, tmp_path
):
    monkeypatch.setenv("LORA_NS_CACHE", str(tmp_path / "cache"))
    rows = write_lines("rows.jsonl", PAIRS)

    def count(template: str | None = None, rows: Path = rows, **keys) -> int:
        prepare_set("custom", rows, encoder=make_encoder(template, **keys))
        return len(list((tmp_path / "cache" / "encoded").glob("*.arrow")))

    assert count() == 1
    [file] = (tmp_path / "cache" / "encoded").glob("*.arrow")
    written = file.stat().st_ino
    assert count() == 1
    assert file.stat().st_ino == written, "the tokens are read from the cache"
    assert count(max_length=300) == 2
    assert count(bos=True) == 3
    assert count("chatml", as_chat=True) == 4
    assert count("chatml", as_chat=True, system_prompt="s") == 5
    assert count("llama3", as_chat=True) == 6
    assert count(train_on_prompt=True) == 7
    assert count(truncation="drop") == 8
    assert count(rows=write_lines("other.jsonl", [{**PAIRS[0], "completion": "!"}, *PAIRS[1:]])) == 9
    assert count(rows=write_lines("copy.jsonl", PAIRS)) == 9, "the same rows elsewhere are the same rows"
    assert not [each for each in (tmp_path / "cache" / "encoded").iterdir() if each.is_dir()]


@pytest.mark.parametrize(("suffix", "content"), [(".arrow", ""), (".json", "{"), (".json", '{"num_rows": 3}')])
def test_damaged_token_caches_are_rebuilt(write_lines, prepare_set, monkeypatch, tmp_path, caplog, suffix, content):
    monkeypatch.setenv("LORA_NS_CACHE", str(tmp_path / "cache"))
    rows = write_lines("rows.jsonl", PAIRS)
    expected = prepare_set("custom", rows).train.to_dict()
    [file] = (tmp_path / "cache" / "encoded").glob(f"*{suffix}")
    file.unlink()
    file.write_text(content)
    assert prepare_set("custom", rows).train.to_dict() == expected
    assert "damaged; its rows are made into tokens again" in caplog.text


def test_many_blocks_keep_their_order(write_lines, prepare_set, text_tokenizer):
    rows = [{"prompt": f"{n}:", "completion": "x"} for n in range(2600)]
    data = prepare_set("custom", write_lines("rows.jsonl", rows))
    tokenizer = text_tokenizer()
    for index in (0, 999, 1000, 1001, 2599):
        assert tokenizer.decode(data.train[index]["input_ids"]) == f"{index}:x</s>"
