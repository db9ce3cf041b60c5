"""Every CAUSAL_LM dataset on realistic rows: prompts, answers, turns, hold-outs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from utils.core.errors import ConfigError, DataError
from utils.core.texts import RowError
from utils.data.dataset import load_dataset_plugin
from utils.data.instruction import load_generation_rows, resolve_set
from utils.datasets import code_feedback, custom, gsm8k, metamathqa

REAL = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data"))
ARITHMETIC = Path(__file__).parents[3] / "examples" / "quickstart" / "arithmetic"

GSM8K_ROW = {"question": "Tom has 5. He finds 13. How many?", "answer": "5 + 13 = <<5+13=18>>18\n#### 18"}
META_ROW = {
    "type": "GSM_Rephrased",
    "query": "What is 2 plus 3?",
    "original_question": "Tom has 2.",
    "response": "2 + 3 = 5\n#### 5\nThe answer is: 5",
}
CHAT = [{"role": "user", "content": "Write a loop."}, {"role": "assistant", "content": "for"}]


def describe(room: str, **keys):
    module = load_dataset_plugin(room)
    return module.describe_instructions(module.Config(**keys))


def read(row, **keys):
    """Read a row by the custom dataset, with its format derived from the columns unless given."""
    spec = describe("custom", path="rows.jsonl", **keys)
    return (spec.resolve(spec, tuple(row)) if spec.resolve else spec).read_row(row)


def test_gsm8k_asks_and_answers():
    spec = describe("gsm8k")
    example = spec.read_row(GSM8K_ROW)
    assert example.prompt == "Question: Tom has 5. He finds 13. How many?\nAnswer:"
    assert example.answer == " 5 + 13 = <<5+13=18>>18\n#### 18", "the annotations are kept"
    assert example.reference == GSM8K_ROW["answer"]
    assert example.user_turn == GSM8K_ROW["question"]
    assert replace(spec.ask(GSM8K_ROW["question"]), answer=example.answer) == example
    assert (spec.path, spec.subset, spec.generation_split, spec.validation_size) == (
        "openai/gsm8k", "main", "test", None,
    )  # fmt: skip
    assert spec.metrics[0] == "em_strict"
    assert spec.stop == ("Question:",)
    assert describe("gsm8k", as_chat=True).stop == ()


def test_a_custom_prompt_replaces_the_datasets():
    spec = describe("gsm8k", prompt_template="Q: {question}\nA: ")
    example = spec.read_row(GSM8K_ROW)
    assert example.prompt == "Q: Tom has 5. He finds 13. How many?\nA: "
    assert example.answer == GSM8K_ROW["answer"]
    assert example.user_turn == "", "as a chat, the rendered prompt is the user's turn"
    assert spec.ask("Why?").prompt == "Q: Why?\nA: "
    assert spec.stop == ()
    assert "prompt_template" in gsm8k.Config(prompt_template="{question}{answer}").find_conflicts()
    assert "prompt_template" in metamathqa.Config(prompt_template="{question}").find_conflicts()
    assert "prompt_template" in code_feedback.Config(prompt_template="{messages}").find_conflicts()


def test_metamathqa_trains_on_alpacas_header():
    spec = describe("metamathqa")
    example = spec.read_row(META_ROW)
    assert example.prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nWhat is 2 plus 3?\n\n### Response:"
    )
    assert example.answer == META_ROW["response"]
    assert spec.group(META_ROW) == "Tom has 2."
    assert spec.group({"query": "Alone?", "response": "x"}) == "Alone?"
    assert spec.validation_size == 500
    assert describe("metamathqa", validation_size=0).validation_size == 0
    assert describe("metamathqa", prompt_template="{query}").read_row(META_ROW).answer.startswith(" 2 + 3")


def test_code_feedback_is_conversations():
    spec = describe("code_feedback")
    example = spec.read_row({"id": 1, "messages": CHAT})
    assert example.messages == tuple(CHAT)
    assert spec.group({"messages": CHAT}) == "Write a loop."
    assert spec.ask("Why?").messages == ({"role": "user", "content": "Why?"},)
    with pytest.raises(RowError, match="no column messages; there are: id"):
        spec.read_row({"id": 1})


@pytest.mark.parametrize("name", ["gsm8k", "metamathqa"])
def test_a_system_turn_without_a_chat_has_no_effect(name):
    room = load_dataset_plugin(name)
    assert "as_chat: true" in room.Config(system_prompt="Be kind.").find_conflicts()["system_prompt"]
    assert room.Config(system_prompt="Be kind.", as_chat=True).find_conflicts() == {}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompt_template": "{a"}, "write {{"),
        ({"train_split": "train[5]"}, "is not a split"),
        ({"validation_size": 1.5}, "a whole number of rows"),
        ({"validation_size": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_be_read_are_refused_at_once(keys, message):
    with pytest.raises(ValueError, match=message):
        gsm8k.Config(**keys)


def test_an_unknown_role_is_refused_at_once():
    with pytest.raises(ValueError, match="narrator is users, which is not a role; use system, user, assistant or tool"):
        custom.Config(path="x", roles={"narrator": "users"})


def test_the_shipped_arithmetic_rows_are_read():
    section = gsm8k.Config(path=str(ARITHMETIC))
    rows = load_generation_rows(gsm8k.describe_instructions(section), section, 42)
    assert (len(rows.examples), rows.num_total, rows.split) == (300, 300, "test")
    assert rows.places[4] == f"{ARITHMETIC / 'test.jsonl'}:5"
    assert all("####" in example.answer for example in rows.examples)


def test_real_gsm8k_is_read(prepare_set, make_encoder):
    if not (REAL / "gsm8k").is_dir():
        pytest.skip("real rows of GSM8K are missing (LORA_NS_REAL_DATA)")
    data = prepare_set("gsm8k", REAL / "gsm8k", max_train_samples=50, encoder=make_encoder(max_length=2000))
    assert len(data.train) == 50
    assert data.reports["train"].rows_read == 7473
    assert data.evals == {}
    section = gsm8k.Config(path=str(REAL / "gsm8k"), max_eval_samples=10)
    rows = load_generation_rows(data.spec, section, 42)
    assert (len(rows.examples), rows.num_total) == (10, 1319)


def test_real_rows_of_metamathqa_and_code_feedback_are_read(prepare_set, make_encoder):
    if not (REAL / "code").is_dir():
        pytest.skip("real rows are missing (LORA_NS_REAL_DATA)")
    encoder = make_encoder("chatml", max_length=4000)
    data = prepare_set("metamathqa", REAL / "code" / "metamathqa_rows.jsonl", validation_size=1, encoder=encoder)
    assert len(data.train) == len(data.evals[""]) == 1
    assert data.reports["train"].unread == {"type": 2}, "rows are grouped by original_question"
    rows = REAL / "code" / "code_feedback_row.jsonl"
    assert len(prepare_set("code_feedback", rows, validation_size=0, encoder=encoder).train) == 1


def test_custom_rows_with_a_template():
    row = {"topic": "birds", "count": 3, "response": "Owl."}
    example = read(row, prompt_template="Name {count} {topic}.\n")
    assert (example.prompt, example.answer) == ("Name 3 birds.\n", "Owl.")
    assert read(row, prompt_template="About {topic}:", answer_column="response").answer == " Owl."
    one = describe("custom", path="x", prompt_template="About {topic}:", answer_column="response")
    assert one.ask("cats").prompt == "About cats:"
    assert one.read_row(row).question == "birds"
    two = describe("custom", path="x", prompt_template="{topic} {count}", answer_column="response")
    assert two.ask is None, "a prompt with two columns cannot be filled from one text"
    with pytest.raises(DataError, match=r"dataset\.answer_column must name .* there are: topic, answer, output"):
        read({"topic": "a", "answer": "b", "output": "c"}, prompt_template="{topic}")


def test_prompt_and_completion_follow_directly():
    example = read({"prompt": "2 + 3 =", "completion": "5"})
    assert (example.prompt, example.answer, example.question) == ("2 + 3 =", "5", "2 + 3 =")
    assert read({"prompt": "a", "reply": "b"}, format="prompt_completion", answer_column="reply").answer == "b"


def test_prompt_and_completion_as_turns_train_the_completion_only():
    prompt = [*CHAT, {"role": "user", "content": "And now?"}]
    example = read({"prompt": prompt, "completion": [{"role": "assistant", "content": "while"}]})
    assert len(example.messages) == 4
    assert [turn.get("context", False) for turn in example.messages] == [False, True, False, False]
    with pytest.raises(RowError, match="column prompt holds a text instead of a list"):
        read({"prompt": "x", "completion": [{"role": "assistant", "content": "while"}]})


def test_messages_and_sharegpt():
    assert read({"messages": CHAT}).messages == tuple(CHAT)
    assert read({"talk": CHAT}, format="messages", messages_column="talk").messages == tuple(CHAT)
    shared = [{"from": "human", "value": "Write a loop."}, {"from": "gpt", "value": "for"}]
    assert read({"conversations": shared}).messages == tuple(CHAT)


def test_alpaca_with_and_without_an_input():
    plain = read({"instruction": "Add 2 and 3.", "input": "", "output": "5"})
    assert plain.prompt.endswith("completes the request.\n\n### Instruction:\nAdd 2 and 3.\n\n### Response:")
    assert plain.user_turn == plain.question == "Add 2 and 3."
    with_input = read({"instruction": "Add.", "input": "2, 3", "output": "5", "text": "all of it"})
    assert "paired with an input that provides further context." in with_input.prompt
    assert with_input.prompt.endswith("### Instruction:\nAdd.\n\n### Input:\n2, 3\n\n### Response:")
    assert with_input.user_turn == "Add.\n\n2, 3"
    assert read({"instruction": "Add.", "input": None, "output": "5"}).question == "Add."
    with pytest.raises(RowError, match="column input holds a number"):
        read({"instruction": "Add.", "input": 5, "output": "5"})


def test_alpacas_system_text_and_history_are_part_of_a_chats_prompt():
    row = {"instruction": "And now?", "input": "", "output": "5.", "system": "Be kind.", "history": [["A?", "B."]]}
    example = read(row, as_chat=True)
    assert [(turn["role"], turn["content"]) for turn in example.messages] == [
        ("system", "Be kind."), ("user", "A?"), ("assistant", "B."), ("user", "And now?"), ("assistant", "5."),
    ]  # fmt: skip
    assert example.messages[2]["context"], "earlier answers are not trained on"
    bare = {**row, "system": "", "history": []}
    assert read(bare, as_chat=True).messages == read(bare).messages == ()
    for key, what in (("system", "system text"), ("history", "history")):
        with pytest.raises(RowError, match=rf"the row has a {what}.*dataset\.as_chat: true"):
            read({**bare, key: row[key]})
    with pytest.raises(RowError, match="column history must hold pairs of texts"):
        read({**row, "history": ["A?", "B."]}, as_chat=True)
    pair = {"prompt": "Why?", "completion": " So.", "system": "Be kind."}
    assert [turn["content"] for turn in read(pair, as_chat=True).messages] == ["Be kind.", "Why?", "So."]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT},
        {"conversations": CHAT},
        {"instruction": "a", "output": "b"},
        {"prompt": "a", "completion": "b"},
    ],
)
def test_an_answer_labelled_as_bad_is_not_trained_on(row):
    for key, bad, good in (("label", False, True), ("kto_tag", "false", "true"), ("label", "False", "math")):
        with pytest.raises(RowError, match=f"column {key} is false: in KTO rows"):
            read({**row, key: bad}, format=None)
        assert read({**row, key: good}) == read(row)
    assert read({"text": "a", "label": False}).answer == "a", "a class label, for texts without answers"


def test_chosen_and_rejected_columns_point_to_the_preference_task(write_lines, prepare_set):
    sentence = r"chosen and rejected belong to preference tuning; .* dpo: .* dataset\.answer_column: chosen"
    rows = [{"conversations": CHAT, "chosen": CHAT[1], "rejected": CHAT[1]}] * 3
    for keys in ({}, {"format": "sharegpt"}):
        with pytest.raises(DataError, match=sentence):
            prepare_set("custom", write_lines("rows.jsonl", rows), "chatml", **keys)
    rows = [{"prompt": f"{n}?", "chosen": f"{n}.", "rejected": "!"} for n in range(3)]
    with pytest.raises(DataError, match=sentence):
        prepare_set("custom", write_lines("rows.jsonl", rows))
    file, keys = write_lines("rows.jsonl", rows), {"prompt_template": "{prompt}", "answer_column": "chosen"}
    assert prepare_set("custom", file, **keys).reports["train"].unread == {"rejected": 3}


def test_plain_text_has_no_prompt():
    example = read({"text": "All of it."})
    assert (example.prompt, example.answer) == ("", "All of it.")
    assert read({"body": "x"}, format="text", text_column="body").answer == "x"
    assert describe("custom", path="x", format="text").ask is None
    with pytest.raises(DataError, match=r"text needs one dataset\.text_column"):
        describe("custom", path="x", format="text", text_column=["a", "b"])
    with pytest.raises(DataError, match="fit no format"):
        read({"a": "x", "b": "y"}, text_column=["a", "b"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("question", "reply"), "fit no format; there are: question, reply. Set dataset.format to one of template"),
        (("prompt", "completion", "messages"), r"fit several formats \(prompt_completion, messages\)"),
        ((), "there are: none"),
    ],
)
def test_unrecognised_columns_are_listed(columns, message):
    with pytest.raises(DataError, match=message):
        read(dict.fromkeys(columns))


def test_the_format_is_derived_from_the_columns(write_lines, make_set):
    file = write_lines("rows.jsonl", ["not json", {"prompt": "a"}, {"prompt": "a", "completion": "b"}])
    spec = describe("custom", path=str(file))
    assert spec.ask is None
    settled = resolve_set(spec)
    assert settled.ask("a").prompt == "a"
    assert settled.columns == ("prompt", "completion")
    assert resolve_set(settled) is settled
    with pytest.raises(DataError, match="no split called train"):
        resolve_set(describe("custom", path=str(make_set(test=[{"prompt": "a", "completion": "b"}]))))


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"format": "template"}, "format"),
        ({"format": "alpaca", "prompt_template": "{a}"}, "prompt_template"),
        ({"prompt_template": "{a} {b}", "answer_column": "b"}, "prompt_template"),
        ({"format": "messages", "as_chat": True}, "as_chat"),
        ({"format": "alpaca", "answer_column": "b"}, "answer_column"),
        ({"format": "text", "messages_column": "b"}, "messages_column"),
        ({"format": "alpaca", "system_prompt": "b"}, "system_prompt"),
        ({"format": "text", "system_prompt": "b"}, "system_prompt"),
        ({"format": "text", "roles": {"b": "user"}}, "roles"),
        ({"format": "alpaca", "split_long": True}, "split_long"),
    ],
)
def test_keys_that_contradict_the_format_are_refused(keys, key):
    assert set(custom.Config(path="x", **keys).find_conflicts()) == {key}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"prompt_template": "{a}"},
        {"format": "messages", "system_prompt": "b"},
        {"as_chat": True, "system_prompt": "b"},
        {"label_column": "label", "num_labels": 2},
        {"format": "text", "split_long": True},
        {"roles": {"b": "user"}, "split_long": True},
    ],
)
def test_keys_that_agree_with_the_format_are_kept(keys):
    assert custom.Config(path="x", **keys).find_conflicts() == {}


def test_custom_metrics():
    assert describe("custom", path="x", metrics=["em_strict"]).metrics == ("em_strict",)
    assert describe("custom", path="x").metrics == ("exact_match", "token_f1", "rouge_l")


BY_TYPE = {"GSM_Rephrased": "Rephrased: {query}\nAnswer:", "GSM_AnsAug": "Q: {query}\nA:"}


def test_metamath_uses_a_separate_prompt_for_each_row_type():
    spec = describe("metamathqa", prompt_template={**BY_TYPE, "default": "{query} ="})
    assert spec.read_row(META_ROW).prompt == "Rephrased: What is 2 plus 3?\nAnswer:"
    assert spec.read_row({**META_ROW, "type": "GSM_AnsAug"}).prompt == "Q: What is 2 plus 3?\nA:"
    assert spec.read_row({**META_ROW, "type": "MATH_FOBAR"}).prompt == "What is 2 plus 3? ="
    assert spec.ask("1 + 1?").prompt == "1 + 1? ="
    assert spec.prompt_columns == ("query",)
    with pytest.raises(RowError, match="column type holds"):
        spec.read_row({**META_ROW, "type": None})


def test_a_type_without_a_prompt_is_a_bad_row():
    spec = describe("metamathqa", prompt_template=BY_TYPE)
    assert spec.ask is None
    assert spec.prompt_columns == ("query", "type")
    message = "is of type MATH_SV, and dataset.prompt_template is for GSM_Rephrased, GSM_AnsAug; add default to it"
    with pytest.raises(RowError, match=message):
        spec.read_row({**META_ROW, "type": "MATH_SV"})


def test_an_unused_prompt_is_warned_about(make_set, caplog):
    from utils.data.instruction import read_training_rows

    config = metamathqa.Config(path=str(make_set(train=[META_ROW] * 3)), validation_size=0, prompt_template=BY_TYPE)
    read_training_rows(metamathqa.describe_instructions(config), config, 42)
    assert "no training row has type GSM_AnsAug; its prompt has no effect" in caplog.text
    assert "GSM_Rephrased; its" not in caplog.text


def test_mistakes_in_a_mapping_of_prompts(make_config):
    def mistakes(prompts):
        with pytest.raises(ConfigError) as caught:
            make_config("llama", task="CAUSAL_LM", dataset={"name": "metamathqa", "prompt_template": prompts})
        return str(caught.value)

    assert "is empty; name a type" in mistakes({})
    assert "names no column in braces" in mistakes({"GSM_SV": "Say something."})
    assert "the prompt can be made of one column: {query}" in mistakes({"default": "{response}"})
