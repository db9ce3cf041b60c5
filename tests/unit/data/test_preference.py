"""Preference rows in their published formats; both sides are encoded with one prompt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from utils.core.errors import DataError
from utils.core.texts import RowError
from utils.data.dataset import load_dataset_plugin
from utils.data.encoded_rows import format_preview
from utils.data.instruction import prepare_instructions
from utils.data.preference import as_labelled, as_pairs
from utils.data.preference_encoding import LabelledEncoder, PairEncoder

REAL = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data"))
ASKED = {"role": "user", "content": "Why?"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("So.", "No."))
SHAREGPT = {"from": "human", "value": "Why?"}


def read(row: dict[str, Any], make=lambda spec: as_pairs(spec, {}), **keys: Any):
    plugin = load_dataset_plugin("custom")
    spec = make(plugin.describe_instructions(plugin.Config(path="rows.jsonl", **keys)))
    return (spec.resolve(spec, tuple(row)) if spec.resolve else spec).read_row(row)


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [SHAREGPT], "chosen": {"from": "gpt", "value": "So."},
         "rejected": {"from": "gpt", "value": "No."}},
        {"messages": [ASKED], "chosen": GOOD, "rejected": BAD},
        {"messages": [ASKED], "chosen": "So.", "rejected": "No."},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Why?", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Why?", "prompt_id": "a", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD],
         "messages": [ASKED, GOOD], "score_chosen": 8.0},  # UltraFeedback
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    ],
)  # fmt: skip
def test_chats_in_their_published_formats(row):
    pair = read(row)
    assert [turn["content"] for turn in pair.messages] == ["Why?", "So."]
    assert [turn["content"] for turn in pair.rejected.messages] == ["Why?", "No."]
    assert pair.rejected.rejected is None


def test_texts_follow_their_prompts():
    pair = read({"prompt": "2 + 3 =", "chosen": " 5", "rejected": " 6"})
    assert (pair.prompt, pair.answer, pair.rejected.prompt, pair.rejected.answer) == ("2 + 3 =", " 5", "2 + 3 =", " 6")
    pair = read({"q": "2 + 3", "chosen": "5", "rejected": "6"}, prompt_template="{q} =")
    assert (pair.prompt, pair.answer, pair.rejected.answer) == ("2 + 3 =", " 5", " 6")
    turns = [SHAREGPT, {"from": "gpt", "value": "Ah."}, SHAREGPT]
    pair = read({"conversations": turns, "chosen": "So.", "rejected": "No."})
    assert [turn.get("context") for turn in pair.messages] == [None, True, None, None], "the last answer is trained on"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": None}, "rejected holds nothing"),
        ({"prompt": "a", "chosen": "b", "rejected": 3}, "rejected holds"),
        ({"chosen": "b", "rejected": "c"}, "there is no prompt"),
    ],
)
def test_a_row_that_is_not_a_pair_is_explained(row, said):
    with pytest.raises(RowError, match=said):
        read(row)


def test_labelled_answers():
    for name, value, good in (("label", True, True), ("kto_tag", "false", False), ("label", 0, False)):
        assert read({"messages": [ASKED, GOOD], name: value}, as_labelled).is_good is good
        found = read({"prompt": "a", "completion": "b", name: value}, as_labelled)
        assert (found.prompt, found.answer, found.is_good, found.messages) == ("a", "b", good, ())
    with pytest.raises(RowError, match="true or false"):
        read({"prompt": "a", "completion": "b", "label": "maybe"}, as_labelled)


def prepare(path: Path, tokenizer: Any, kind: Any, make: Any, max_length: int = 40, **keys: Any):
    plugin = load_dataset_plugin("custom")
    section = plugin.Config(path=str(path), **keys)
    encoder = kind.build(tokenizer, section, max_length, length_key="dpo.max_length")
    return prepare_instructions(make(plugin.describe_instructions(section)), section, encoder, 42)


def test_both_sides_share_one_prompt_and_unusable_pairs_are_counted(tmp_path, load_tokenizer_of):
    tokenizer = load_tokenizer_of("llama")
    long = " ".join(f"w{number}" for number in range(40))
    rows = [
        {"prompt": long, "chosen": " good film", "rejected": " bad film the film is bad"},
        {"prompt": "the film", "chosen": " is good", "rejected": " is good"},
        {"prompt": "the film", "chosen": " is good", "rejected": " is bad"},
        {"prompt": "the film", "chosen": " is good", "rejected": " is bad"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    data = prepare(file, tokenizer, PairEncoder, lambda spec: as_pairs(spec, {}), max_length=16)
    first = data.train[0]
    lengths = [labels.count(-100) for labels in (first["labels"], first["rejected_labels"])]
    assert first["input_ids"][: lengths[0]] == first["rejected_input_ids"][: lengths[1]]
    assert max(len(first["input_ids"]), len(first["rejected_input_ids"])) == 16 == first["length"]
    report = data.reports["train"]
    assert (report.prompts_cut, report.duplicate_rows, report.rows) == (1, 1, 4)
    assert report.notes == {"whose chosen and rejected answers are equal: nothing is learned from them": 1}
    shown = format_preview(data.train.select([2]), tokenizer, 1)
    assert "row 1 of 1, chosen: 6 tokens, 3 trained on" in shown
    assert "[[is bad </s>]]" in shown
    with pytest.raises(DataError, match=r"longer than dpo\.max_length"):
        prepare(file, tokenizer, PairEncoder, lambda spec: as_pairs(spec, {}), max_length=8, truncation="error")


@pytest.mark.parametrize(("name", "kind"), [("dpo_en_demo", PairEncoder), ("dpo_zh_demo", PairEncoder),
                                            ("kto_en_demo", LabelledEncoder)])  # fmt: skip
def test_real_rows_are_read_without_loss(name, kind):
    file = REAL / "preference" / f"{name}.json"
    if not file.is_file():
        pytest.skip(f"{file} is missing")
    plugin = load_dataset_plugin("custom")
    make = as_labelled if kind is LabelledEncoder else lambda spec: as_pairs(spec, {})
    rows = json.loads(file.read_text("utf-8"))
    spec = make(plugin.describe_instructions(plugin.Config(path=str(file))))
    spec = spec.resolve(spec, tuple(rows[0]))
    for row in rows:
        example = spec.read_row(row)
        if kind is LabelledEncoder:
            assert [turn["content"] for turn in example.messages] == [turn["content"] for turn in row["messages"]]
            assert example.is_good is row["label"]
            continue
        before = [turn["value"] for turn in row["conversations"]]
        for side, answer in ((example, "chosen"), (example.rejected, "rejected")):
            assert [turn["content"] for turn in side.messages] == [*before, row[answer]["value"]]
