"""Inference from the request to the answers, on tiny models in this process."""

from __future__ import annotations

import json
import logging

import pytest

from utils.core.errors import DataError, ModelError, UserError


@pytest.fixture(autouse=True)
def _record_info_logs(caplog):
    caplog.set_level(logging.INFO, "utils")


def test_answers_equal_those_of_an_evaluation(sums_run, ask, read, tmp_path, sums):
    """Prompts, end tokens and settings are the same, so every text is."""
    from utils.evaluate_model.evaluated_model import open_run
    from utils.evaluate_model.evaluation import evaluate

    (entry,) = evaluate(open_run(str(sums_run), ["gsm8k@test[:23]"], [], str(tmp_path / "scores")))
    judged = read(entry.folder / "predictions.jsonl")
    source = sums_run / "questions.jsonl"
    source.write_text("".join(json.dumps({"id": 1, "question": row["question"]}) + "\n" for row in sums))
    answer = ask("--run", sums_run, "--input_file", source, "--output_file", tmp_path / "out.jsonl")
    written = read(tmp_path / "out.jsonl")
    assert len({row["answer"] for row in written}) > 5, "one answer for all rows would prove nothing"
    keys = ("answer", "finished", "num_tokens")
    assert [[row[key] for key in keys] for row in written] == [
        [row["prediction"], row["finished"], row["num_tokens"]] for row in judged
    ]
    assert [row["question"] for row in written] == [row["question"] for row in sums]
    assert (answer["rows"], answer["errors"], answer["num_kept"]) == (23, 0, 0)


def test_long_prompts_are_cut_as_in_an_evaluation(make_run, make_sft, ask, read, write, tmp_path):
    """A set whose protocol truncates prompts gets the same tokens here; the answer is marked as truncated."""
    from utils.evaluate_model.evaluated_model import open_run
    from utils.evaluate_model.evaluation import evaluate

    talk = "".join(f"Tom has {number} apples and gives {number + 2} away. " for number in range(70))
    rows = [
        {"input": f"How many has Tom after {number}?", "context": talk[number:] * (number % 2) + "Tom has 4 apples.",
         "answers": ["Ann"], "length": 9, "dataset": "qmsum", "language": "en", "all_classes": None, "_id": str(number)}
        for number in range(8)
    ]  # fmt: skip
    (tmp_path / "rows").mkdir()
    path = write("rows/qmsum.jsonl", rows).parent
    dataset = {"name": "qmsum", "path": str(path), "train_split": "test", "validation_split": None}
    run = make_run(config=make_sft(dataset=dataset, generation={"max_new_tokens": 12, "batch_size": 3}))
    asked = [f"{{name: qmsum, path: {path}, max_new_tokens: 12}}"]
    (entry,) = evaluate(open_run(str(run), asked, [], str(tmp_path / "scores")))
    judged = [row["prediction"] for row in read(entry.folder / "predictions.jsonl")]
    assert len(set(judged)) > 5, "one answer for all rows would prove nothing"
    answer = ask("--run", run, "--input_file", path / "qmsum.jsonl", "--output_file", tmp_path / "out.jsonl")
    assert answer["errors"] == 0
    written = read(tmp_path / "out.jsonl")
    assert [row["answer"] for row in written] == judged
    assert ["truncated" in row for row in written] == [number % 2 == 1 for number in range(8)]
    assert written[1]["truncated"] is True


def test_the_same_question_in_every_input_format(sums_run, ask, read, write, tmp_path, sums, monkeypatch, capsys):
    question = sums[0]["question"]
    said = ask("--run", sums_run, "--input_text", question, "--json")["answers"][0]
    assert said["question"] == question
    forms = [
        write("a.txt", f"{question}\n"),
        write("b.csv", f'text\n"{question}"\n'),
        write("c.jsonl", [{"prompt": question}]),
        write("d.jsonl", [{"question": question, "answer": "old"}]),
        write("e.json", json.dumps([{"q": question}])),
    ]
    for file in forms:
        more = ["--text_column", "q"] if file.suffix == ".json" else []
        ask("--run", sums_run / "checkpoint-2", "--input_file", file, "--output_file", tmp_path / "out.jsonl", *more)
        (row,) = read(tmp_path / "out.jsonl")
        assert row["answer"] == said["answer"], file
        assert row.get("input_answer") == ("old" if file.name == "d.jsonl" else None)
    capsys.readouterr()
    ask("--run", sums_run, "--checkpoint", 2, "--input_text", question, "--stream")
    assert capsys.readouterr().out == said["answer"] + "\n"
    _type(monkeypatch, json.dumps({"question": question}) + "\n{\n")
    ask("--run", sums_run)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["answer"] == said["answer"]
    assert second["line"] == 2
    assert "not JSON" in second["error"]


def test_flags_override_the_section(sums_run, ask, sums):
    texts = [word for row in sums for word in ("--input_text", row["question"])]

    def answers(*flags):
        return [row["answer"] for row in ask("--run", sums_run, *texts, "--json", *flags)["answers"]]

    greedy = answers()
    assert answers("--batch_size", 1) == answers("--temperature", 0) == greedy
    drawn = answers("--temperature", 1.5, "--seed", 3)
    assert answers("--temperature", 1.5, "--seed", 3, "--batch_size", 2) == drawn
    assert drawn != greedy
    assert answers("--temperature", 1.5, "--seed", 4) != drawn
    assert len(set(answers("--temperature", 1.5)[:2])) == 2
    short = ask("--run", sums_run, *texts, "--json", "--max_new_tokens", 2)["answers"]
    assert {row["num_tokens"] for row in short} <= {1, 2}
    letter = greedy[0].strip()[1]
    assert all(letter not in text for text in answers("--stop", letter))


def test_samples_do_not_repeat_between_windows(sums_run, ask, write, read, tmp_path, sums, monkeypatch):
    from utils.inference.predictor import WritingModel

    monkeypatch.setattr(WritingModel, "window", 4)
    rows = write("in.jsonl", [sums[0]] * 12)
    words = ("--run", sums_run, "--input_file", rows, "--temperature", 1.5)
    ask(*words, "--output_file", tmp_path / "a.jsonl")
    answers = [row["answer"] for row in read(tmp_path / "a.jsonl")]
    assert answers[:4] != answers[4:8]


def test_bad_rows_are_kept_as_errors_and_the_others_answered(sums_run, ask, read, write, tmp_path, sums, caplog):
    good = {"id": 7, "line": "mine", "question": sums[0]["question"]}
    lines = [
        good, {"id": 7, "body": "x"}, "{", {"question": 5.5}, {"question": "a\0b"}, {"question": "\ud800"},
        {"question": "w " * 500_000}, good, {"messages": [{"role": "user", "content": "Hi"}]}, {"messages": []},
    ]  # fmt: skip
    text = "\n\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    source = write("in.jsonl", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b'\r\n{"question": "caf\xe9"}')
    answer = ask("--run", sums_run, "--input_file", source, "--output_file", tmp_path / "out.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert (answer["rows"], answer["errors"]) == (11, 9)
    assert [row.get("line") for row in rows] == [None, 3, 5, 7, 9, 11, 13, None, 17, 19, 20]
    assert rows[0]["answer"] == rows[7]["answer"]
    assert (rows[0]["id"], rows[0]["input_line"]) == (7, "mine")
    for row, message in zip(
        rows[1:7],
        ["no column question; there are: id, body", "not JSON", "holds a number instead of a text", "NUL", "surrogate",
         "the model has"],
        strict=True,
    ):  # fmt: skip
        assert message in row["error"]
    assert "no chat template" in rows[8]["error"]
    assert "empty conversation" in rows[9]["error"]
    assert "9 of 11 rows could not be answered" in caplog.text
    assert "in.jsonl:3: no column question" in caplog.text
    with pytest.raises(DataError, match=r"in\.jsonl:3: no column question"):
        ask("--run", sums_run, "--input_file", source, "--output_file", tmp_path / "out.csv", "--strict")
    assert not (tmp_path / "out.csv").exists()


def test_an_interrupted_call_is_resumed(sums_run, ask, write, tmp_path, sums, monkeypatch, caplog):
    from utils.inference.partial import PartialFile

    source, target = write("in.jsonl", [*sums, {"no": 1}]), tmp_path / "out.jsonl"
    words = ("--run", sums_run, "--input_file", source, "--output_file")
    ask(*words, tmp_path / "whole.jsonl")
    add, calls = PartialFile.add, []

    def interrupt(self, results):
        add(self, results)
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(PartialFile, "add", interrupt)
    monkeypatch.setattr("utils.generation.backend._SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        ask(*words, target)
    assert "answers are kept in" in caplog.text
    assert "the same command continues" in caplog.text
    assert not target.exists()
    partial = tmp_path / "out.jsonl.partial.jsonl"
    assert partial.read_bytes().count(b"\n") == 10, "a first line, the bad row, and eight answers"
    monkeypatch.setattr(PartialFile, "add", add)
    answer = ask(*words, target)
    assert (answer["num_kept"], answer["rows"], answer["errors"]) == (9, 24, 1)
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not partial.exists()


def test_other_settings_start_over(sums_run, ask, write, tmp_path, sums, monkeypatch, caplog):
    from utils.inference import session

    source, target = write("in.jsonl", sums[:3]), tmp_path / "out.csv"
    words = ("--run", sums_run, "--input_file", source, "--output_file", target)
    with monkeypatch.context() as patch:
        patch.setattr(session, "write_results", lambda *_: (_ for _ in ()).throw(UserError("no room")))
        with pytest.raises(UserError, match="no room"):
            ask(*words)
    assert ask(*words, "--max_new_tokens", 3)["num_kept"] == 0
    assert "started anew, since the answers in it are of another settings" in caplog.text
    assert target.read_text().count("\n") >= 4
    with monkeypatch.context() as patch:
        patch.setattr(session, "write_results", lambda *_: (_ for _ in ()).throw(UserError("no room")))
        with pytest.raises(UserError, match="no room"):
            ask(*words)
    assert "3 answers are kept in" in caplog.text
    source.write_text(json.dumps(sums[5]) + "\n" + source.read_text())
    assert ask(*words)["num_kept"] == 0
    assert "started anew, since the answers in it are of another input" in caplog.text
    import csv

    with target.open(newline="") as stream:
        assert next(csv.DictReader(stream))["question"] == sums[5]["question"]


def test_a_table_without_the_column_is_refused_before_the_model_is_loaded(sums_run, ask, write, tmp_path):
    (sums_run / "final_model" / "adapter_model.safetensors").unlink()
    source = write("in.csv", "id,body\n1,x\n")
    with pytest.raises(DataError, match="no column question; there are: id, body"):
        ask("--run", sums_run, "--input_file", source, "--output_file", tmp_path / "out.csv")


def test_inputs_without_rows_or_answers(sums_run, ask, write, tmp_path, monkeypatch, caplog):
    target = tmp_path / "out.jsonl"
    for source in (write("a.csv", "question\n"), write("b.json", "[]"), write("c.jsonl", "\n\n")):
        with pytest.raises(DataError, match="the file holds no rows"):
            ask("--run", sums_run, "--input_file", source, "--output_file", target)
    _type(monkeypatch, "")
    with pytest.raises(DataError, match="standard input: holds no rows"):
        ask("--run", sums_run)
    with pytest.raises(DataError, match=r"none of 2 rows could be answered; the first: .*no column question"):
        ask("--run", sums_run, "--input_file", write("d.jsonl", [{"a": 1}, {"a": 2}]), "--output_file", target)
    assert target.read_text().count("error") == 2
    assert "2 rows done" in caplog.text
    assert "rows answered" not in caplog.text
    for words, message in (
        (("--checkpoint", 3), "no such checkpoint; there are: 2"),
        (("--best",), "marked no checkpoint as best"),
        (("--top_p", "0.5"), "--top_p: has no effect at --temperature 0"),
        (("--temperature", "-1"), "--temperature: "),
    ):
        with pytest.raises(UserError, match=message):
            ask("--run", sums_run, "--input_text", "a", *words)


def test_classifiers(make_run, ask, read, write, tmp_path, make_set, draw_rows, caplog):
    rows = draw_rows(30, pair=True)
    run = make_run("bert", make_set("p", train=rows, validation=rows[:9]), dataset__text_column=["text", "other"])
    source = write("in.jsonl", [{**row, "probability_x": 1} for row in rows] + [{"text": "a", "other": ["b"]}])
    ask("--run", run, "--input_file", source, "--output_file", tmp_path / "out.jsonl")
    ask("--run", run, "--input_file", source, "--output_file", tmp_path / "out.csv")
    out = read(tmp_path / "out.jsonl")
    assert [row["input_label"] for row in out[:-1]] == [row["label"] for row in rows]
    assert sum(out[0]["probabilities"].values()) == pytest.approx(1)
    assert "column other holds a list instead of a text" in out[-1]["error"]
    assert "does not know" not in caplog.text
    strange = write("strange.tsv", 'text\tother\n"good \u597d\tw1\n\u597d \u7684\tw2\n \t\n')
    ask("--run", run, "--input_file", strange, "--output_file", tmp_path / "strange.jsonl")
    assert [row.get("error") for row in read(tmp_path / "strange.jsonl")] == [None, None, "has no text"]
    (said,) = [line for line in caplog.messages if "does not know" in line]
    assert "cannot read: \u597d" in said
    assert "\u7684" in said
    assert said.endswith("(the first in 2 rows)")
    header = (tmp_path / "out.csv").read_text().splitlines()[0].split(",")
    assert {"input_probability_x", "probability_0", "probability_1"} <= set(header)
    (long,) = ask("--run", run, "--input_text", "w1 " * 350_000, "--input_text", "w2", "--json")["answers"]
    assert long["truncated"] is True, "a line of a megabyte"
    (said,) = ask("--run", run, "--input_text", rows[4]["text"], "--input_text", rows[4]["other"], "--json")["answers"]
    assert said["probabilities"] == pytest.approx(out[4]["probabilities"], abs=1e-6)
    with pytest.raises(UserError, match="reads 2 texts per row"):
        ask("--run", run, "--input_text", "a")
    with pytest.raises(UserError, match="is a classifier, which generates nothing; leave out --max_new_tokens"):
        ask("--run", run, "--input_text", "a", "--input_text", "b", "--max_new_tokens", 4)


def test_models_without_a_run(ask, base, tmp_path, sums, tiny_base, load_tokenizer_of):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    text = f"Question: {sums[0]['question']}\nAnswer:"
    (said,) = ask("--model", base, "--input_text", text, "--max_new_tokens", 24, "--json")["answers"]
    assert (said["text"], said["finished"]) == (text, True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer(text, return_tensors="pt")
    written = AutoModelForCausalLM.from_pretrained(base).generate(**ids, max_new_tokens=24, do_sample=False)
    plain = tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said["answer"] == plain

    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_base("bert"), num_labels=3, id2label={0: "a", 1: "b", 2: "c"}
    )
    model.save_pretrained(tmp_path / "classifier")
    load_tokenizer_of("bert").save_pretrained(tmp_path / "classifier")
    (said,) = ask("--model", tmp_path / "classifier", "--input_text", "good w1", "--json")["answers"]
    assert set(said["probabilities"]) == {"a", "b", "c"}
    for words, message in (
        ((tmp_path,), "holds no config.json"),
        (("./nowhere",), "does not exist"),
        ((base, "--text_column", "a", "--text_column", "b"), "reads one column"),
    ):
        with pytest.raises((UserError, ModelError), match=message):
            ask("--model", *words, "--input_text", "a")


def test_a_models_chat_template_is_used(ask, base, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer.chat_template = template
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer.save_pretrained(tmp_path / "chat")
    model.save_pretrained(tmp_path / "chat")
    (said,) = ask("--model", tmp_path / "chat", "--input_text", "Hi", "--max_new_tokens", 8, "--json")["answers"]
    ids = tokenizer(f"user: Hi{tokenizer.eos_token}assistant: ", add_special_tokens=False, return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert said["answer"] == tokenizer.decode(written, skip_special_tokens=True)


def test_the_runs_own_configuration_takes_precedence(sums_run, ask, make_config, caplog, tmp_path, sums, base):
    import yaml

    own = yaml.safe_load((sums_run / "run.yaml").read_text())
    own["dataset"]["prompt_template"] = "Q {question} A"
    own["generation"]["max_new_tokens"] = 3
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(own))
    question = ("--input_text", sums[0]["question"], "--json")
    (said,) = ask("--config", file, "--model_path", sums_run, *question)["answers"]
    (expected,) = ask("--run", sums_run, *question, "--max_new_tokens", 3)["answers"]
    assert said == expected
    assert "dataset.prompt_template: the run has None" in caplog.text
    assert "generation.max_new_tokens" in caplog.text

    import shutil

    bare = tmp_path / "bare" / "weights"
    shutil.copytree(sums_run / "final_model", bare)
    (bare / "run.yaml").unlink()
    (other,) = ask("--config", file, "--model_path", bare, *question)["answers"]
    assert other["num_tokens"] <= 3
    own["dataset"]["prompt_template"] = None
    file.write_text(yaml.safe_dump(own))
    assert ask("--config", file, "--model_path", bare, *question)["answers"] == [expected]
    with pytest.raises(UserError, match="no such folder"):
        ask("--config", file, "--model_path", tmp_path / "nowhere", *question)


def test_a_merged_model_is_prompted_like_its_run(
    sums_run, ask, sums, make_run, draw_rows, make_set, tmp_path, read, write
):
    """Also if the run's base was quantized: the merged weights are not."""
    from utils.merging.merging import MergeOptions, merge_adapter
    from utils.merging.source import open_adapter_run

    question = ("--input_text", sums[0]["question"], "--json")
    expected = ask("--run", sums_run, *question)["answers"]
    for folder in (sums_run / "merged", tmp_path / "elsewhere"):
        merge_adapter(open_adapter_run(str(sums_run)), str(folder), MergeOptions(num_eval=0))
        assert ask("--run", folder, *question)["answers"] == expected
    rows = draw_rows(12)
    data = make_set("q", train=rows, validation=rows)
    run = make_run(
        "llama", data, model__quantization="nf4", dataset__max_length=6, training__output_dir=str(tmp_path / "nf4")
    )
    merge_adapter(open_adapter_run(str(run)), str(tmp_path / "plain"), MergeOptions(dtype="float32", num_eval=0))
    source, answers = write("in.jsonl", rows), tmp_path / "out.jsonl"
    ask("--run", tmp_path / "plain", "--input_file", source, "--output_file", answers)
    written = read(answers)
    assert sum("truncated" in row for row in written) > 5, "the run's max_length counts"
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    plain, tokenizer = (each.from_pretrained(tmp_path / "plain") for each in (
        AutoModelForSequenceClassification, AutoTokenizer))  # fmt: skip
    for row in written:
        ids = tokenizer(row["text"], truncation=True, max_length=6, return_tensors="pt")
        shares = plain(**ids).logits[0].softmax(-1).tolist()
        assert list(row["probabilities"].values()) == pytest.approx(shares, abs=1e-5)


def test_damaged_runs_are_reported(sums_run, ask, make_run, make_config, tmp_path):
    question = ("--input_text", "a")
    final = sums_run / "final_model"
    file = final / "adapter_model.safetensors"
    whole = file.read_bytes()
    damages = {
        "its weights cannot be read .*copy the folder again": lambda: file.write_bytes(whole[:1000]),
        r"holds adapter_config\.json and no adapter_model": file.unlink,
        "not JSON.*copy the folder again": lambda: (final / "adapter_config.json").write_text("{"),
    }
    for message, damage in damages.items():
        file.write_bytes(whole)
        damage()
        with pytest.raises(ModelError, match=message):
            ask("--run", sums_run, *question)
    run = make_run("bert", training__output_dir=str(tmp_path / "classifier"))
    for names, message in (('["a"', "not JSON"), ('["a", "b", "c"]', "weights do not fit .*size mismatch")):
        (run / "final_model" / "labels.json").write_text(names)
        with pytest.raises(ModelError, match=message):
            ask("--run", run, *question)
    with pytest.raises(UserError, match="File name too long"):
        ask("--run", "n" * 300, *question)


def test_a_missing_adapter_tensor_is_named(sums_run, ask):
    """peft would continue with a random one."""
    from safetensors.torch import load_file, save_file

    file = sums_run / "final_model" / "adapter_model.safetensors"
    tensors = load_file(file)
    first = min(tensors)
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, file)
    with pytest.raises(ModelError, match=f"it lacks 1 tensors such as {first}"):
        ask("--run", sums_run, "--input_text", "a")


def test_an_adapter_for_another_task_is_refused(sums_run, ask, make_config, tmp_path):
    import shutil

    config = make_config("bert").source
    with pytest.raises(UserError, match=r"is for SEQ_CLS, and the run .* was trained for CAUSAL_LM"):
        ask("--config", config, "--model_path", sums_run, "--input_text", "a")
    shutil.copytree(sums_run / "final_model", tmp_path / "bare" / "weights")
    (tmp_path / "bare" / "weights" / "run.yaml").unlink()
    with pytest.raises(UserError, match=r"is for SEQ_CLS, and the adapter in .* for CAUSAL_LM"):
        ask("--config", config, "--model_path", tmp_path / "bare" / "weights", "--input_text", "a")


def test_a_moved_run_works(sums_run, ask, sums, tmp_path):
    question = ("--input_text", sums[0]["question"], "--json")
    expected = ask("--run", sums_run, *question)
    (tmp_path / "far" / "away").mkdir(parents=True)
    assert ask("--run", sums_run.rename(tmp_path / "far" / "away" / "run"), *question) == expected


def test_tables_open_in_spreadsheets_and_parquet_readers(sums_run, ask, write, tmp_path, sums):
    """Unicode columns, large integers, quotes and formulas."""
    import pandas as pd

    big = "12345678901234567890123"
    question = sums[0]["question"]
    source = write("in.csv", f'id,\u95ee\u9898,answer\n{big},"{question}",=1+1\n7,"{question}","a\nb"\n')
    words = ("--run", sums_run, "--input_file", source, "--text_column", "\u95ee\u9898")
    for name, open_table in (("o.xlsx", pd.read_excel), ("o.parquet", pd.read_parquet), ("o.tsv", pd.read_table)):
        ask(*words, "--output_file", tmp_path / name)
        table = open_table(tmp_path / name)
        assert list(table.columns) == ["id", "\u95ee\u9898", "input_answer", "answer", "finished", "num_tokens"]
        assert [str(value) for value in table["id"]] == [big, "7"]
        assert [value.lstrip("'") for value in table["input_answer"]] == ["=1+1", "a\nb"]
        assert table["finished"].dtype == bool
        assert table["answer"].nunique() == 1


def _type(monkeypatch, text):
    import io
    import sys
    from types import SimpleNamespace

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode()), isatty=lambda: False))
