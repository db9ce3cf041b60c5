"""Every command with a tokenizer without BOS token, and texts of a single token."""

from __future__ import annotations

import json

import pytest

from tests.commands.in_process import exit_code

WORDS = ["w3", "good", "bad"]


def _answer_by_peft_alone(base, adapter, word):
    """Generate three tokens with plain transformers and peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    ids = tokenizer(word, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 1)
    for _ in range(3):
        token = model(input_ids=ids).logits[0, -1].argmax()
        ids = ids.new_tensor([[*ids[0].tolist(), int(token)]])
    return tokenizer.decode(ids[0, 1:])


def _read_answers(told):
    return [json.loads(line) for line in told.splitlines() if line.startswith("{")]


def test_one_token_texts_of_a_language_model(make_config, make_set, tiny_base, tmp_path, capsys):
    base = tiny_base("gpt2")
    rows = [{"text": word} for word in WORDS * 4]  # no validation rows: the most common case
    config = make_config.write(
        "gpt2", make_set(train=rows), task_type="CAUSAL_LM", dataset__max_length=None, sft={"max_length": 16},
        generation={"max_new_tokens": 3}, training__max_steps=3, training__save_strategy="no",
    )  # fmt: skip
    config.write_text(config.read_text().replace("  max_length: null\n", ""))
    run, merged, asked = tmp_path / "run", tmp_path / "merged", tmp_path / "asked.txt"
    asked.write_text("".join(f"{word}\n" for word in WORDS))
    assert exit_code("train", "--config", config, "--preview", 3) == 0
    assert exit_code("train", "--config", config) == 0
    probes = [json.loads(line) for line in (run / "probe_rows.jsonl").read_text("utf-8").splitlines()]
    assert [each["answer"] for each in probes] == WORDS * 4, "training rows in place of missing validation rows"
    (run / "probe_rows.jsonl").unlink()
    assert exit_code("merge_adapter", "--run", run, "--output", merged) == 0, "a built-in text is one token here"
    expected = [_answer_by_peft_alone(base, run / "final_model", word) for word in WORDS]
    for folder in (run, merged):
        capsys.readouterr()
        assert exit_code("inference", "--run", folder, "--input_file", asked) == 0
        assert [each["answer"] for each in _read_answers(capsys.readouterr().out)] == expected
    asked_rows = [{"prompt": word, "completion": " w1"} for word in WORDS]
    own = make_set("own", train=asked_rows, validation=asked_rows)
    words = ["--set", own, "--output_dir", tmp_path / "scores", "generation.max_new_tokens=2"]
    assert exit_code("evaluate_model", "--model", base, *words) == 0


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_one_token_texts_of_a_classifier(family, make_config, make_set, tmp_path, capsys):
    rows = [{"text": WORDS[1 + number % 2], "label": number % 2} for number in range(12)]
    config = make_config.write(family, make_set(train=rows, validation=rows[:4]), training__max_steps=3)
    run, merged = tmp_path / "run", tmp_path / "merged"
    assert exit_code("train", "--config", config) == 0
    assert exit_code("evaluate_model", "--run", run) == 0
    assert exit_code("merge_adapter", "--run", run, "--output", merged) == 0
    answers = []
    for folder in (run, merged):
        capsys.readouterr()
        assert exit_code("inference", "--run", folder, "--input_text", "good", "--input_text", "") == 0
        lone, empty = _read_answers(capsys.readouterr().out)
        assert "error" in empty
        answers.append(lone["probabilities"]["0"])
    assert answers[0] == pytest.approx(answers[1], abs=1e-5)
