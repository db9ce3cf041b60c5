"""LongBench: 21 subsets from any layout, each with its own prompt and metric; hold-outs by context."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from utils.core.errors import DataError
from utils.core.texts import RowError
from utils.data.instruction import load_generation_rows
from utils.datasets import longbench
from utils.datasets.longbench import OWN_FILE, load_prompts
from utils.datasets.longbench_rows import SUBSETS, find_subset

REAL = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data"))
needs_rows = pytest.mark.skipif(
    not (REAL / "longbench").is_dir(), reason="LongBench's rows are missing (LORA_NS_REAL_DATA)"
)


def make_row(subset="hotpotqa", number=0, **keys):
    return {
        "input": f"Who wrote book {number}?",
        "context": f"Passage {number}: Ann wrote book {number}. " * 4,
        "answers": [f"Ann {number}", "Ann"],
        "length": 40,
        "dataset": subset,
        "language": "en",
        "all_classes": None,
        "_id": f"{subset}-{number}",
        **keys,
    }


def write_rows(file: Path, rows) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file


def describe(**keys):
    return longbench.describe_instructions(longbench.Config(**keys))


def load(**keys):
    config = longbench.Config(validation_size=0, **keys)
    return load_generation_rows(longbench.describe_instructions(config), config, 42)


def test_a_row_becomes_a_prompt_with_its_answer():
    example = describe().read_row(make_row())
    assert example.prompt.count(example.context) == 1
    assert example.prompt.endswith("Question: Who wrote book 0?\nAnswer:")
    assert (example.answer, example.question) == (" Ann 0", "Who wrote book 0?")
    assert example.reference == {"subset": "hotpotqa", "answers": ["Ann 0", "Ann"], "all_classes": []}
    assert not example.plain


def test_a_row_of_the_mirror_gives_the_same():
    row = make_row()
    mirrored = {**row, "question": row["input"], "answers": json.dumps(row["answers"])}
    del mirrored["input"]
    assert describe().read_row(mirrored) == describe().read_row(row)


def test_a_row_without_answers_gives_a_prompt():
    row = {"context": "Ann wrote it.", "input": "Who wrote it?"}
    one, several = describe(subset="hotpotqa"), describe()
    asked = one.read_prompt(row)
    assert asked.prompt == one.read_row(make_row(**row)).prompt
    assert (asked.answer, asked.reference) == ("", "")
    assert set(one.prompt_columns) == set(row)
    assert several.read_prompt({**row, "dataset": "hotpotqa"}) == asked
    assert "dataset" in several.prompt_columns


def test_each_subset_keeps_its_own_rules():
    read = describe().read_row
    assert read(make_row("lcc", input="", answers=["    x = 1"])).answer == "    x = 1", "code is not changed"
    chinese = read(make_row("dureader", answers=["\u4e00"]))
    assert chinese.answer == "\u4e00", "no space between Chinese characters"
    assert {name for name in SUBSETS if read(make_row(name)).plain} == {
        "trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p",
    }  # fmt: skip
    assert read(make_row("trec", all_classes=["Food", "Date"])).reference["all_classes"] == ["Food", "Date"]
    empty = read(make_row("qasper", answers=[""]))
    assert empty.answer == ""
    assert empty.reference["answers"] == [""], "it is still scored"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": 5}, "answers holds a number"),
        ({"answers": [1]}, "answers holds a list"),
        ({"context": None}, "context holds nothing"),
        ({"input": None}, "input holds nothing"),
        ({"dataset": "squad"}, "no subset of LongBench is called squad"),
        ({"all_classes": 3}, "all_classes holds a number"),
    ],
)
def test_a_malformed_row_is_explained(change, message):
    with pytest.raises(RowError, match=message):
        describe().read_row(make_row(**change))


def test_the_protocol_of_one_subset_and_of_several():
    samsum = describe(subset="samsum", validation_size=0)
    assert (samsum.max_new_tokens, samsum.min_new_tokens, samsum.stop) == (128, 1, ("\n",))
    assert samsum.chat_exempt
    assert samsum.greedy
    assert samsum.own_prompt
    assert samsum.official_truncation
    assert samsum.generation_split == "test"
    assert samsum.facts["category"] == "few-shot"
    several = describe(subsets=["lcc", "qmsum"])
    assert (several.max_new_tokens, several.stop, several.chat_exempt) == (512, (), False)
    assert several.generation_split is None, "the held-out rows are answered"
    assert "category" not in several.facts


def test_several_subsets_are_scored_by_their_own_metrics():
    parts = longbench.expand(longbench.Config(subsets=["lcc", "hotpotqa_e"]))
    assert [label for label, _ in parts] == ["longbench_lcc", "longbench_hotpotqa_e"]
    specs = [longbench.describe_instructions(config) for _, config in parts]
    assert [spec.max_new_tokens for spec in specs] == [64, 32]
    assert {spec.generation_split for spec in specs} == {"test"}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("all", tuple(SUBSETS)),
        (["qasper"], ("qasper",)),
        ("qasper, lcc", ("qasper", "lcc")),
        ("[qasper,lcc]", ("qasper", "lcc")),
        (["qasper_e"], ("qasper_e",)),
    ],
)
def test_subsets_are_all_or_some(value, wanted):
    assert longbench.Config(subsets=value).wanted == wanted
    assert longbench.Config(subset="lcc").wanted == ("lcc",)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"subsets": ["qaspr"]}, "qasper"),
        ({"subsets": []}, "names no subset"),
        ({"subsets": ["lcc", "lcc"]}, "twice"),
        ({"subset": "squad"}, "no subset of LongBench is called squad"),
        ({"subsets": ["narrativeqa_e"]}, "narrativeqa_e"),
    ],
)
def test_unknown_subsets_are_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        longbench.Config(**keys)


def test_contradicting_keys_are_refused():
    assert "subset" in longbench.Config(subset="lcc", subsets=["lcc"]).find_conflicts()
    assert "prompts_file" in longbench.Config(prompts_file="a", prompt_template="{context} {input}").find_conflicts()
    assert longbench.Config(subset="lcc").find_conflicts() == {}


def test_rows_are_found_in_every_layout(tmp_path):
    import pandas as pd

    rows = {name: [make_row(name, number) for number in range(3)] for name in ("hotpotqa", "lcc")}
    flat, official, mirror = tmp_path / "flat", tmp_path / "official", tmp_path / "mirror"
    for name, each in rows.items():
        write_rows(flat / f"{name}.jsonl", each)
        write_rows(official / "data" / f"{name}.jsonl", each)
        (mirror / name).mkdir(parents=True)
        frame = pd.DataFrame(each).drop(columns=["dataset"]).rename(columns={"input": "question"})
        frame.to_parquet(mirror / name / "test-00000-of-00001.parquet")
    one = write_rows(tmp_path / "all.jsonl", [*rows["lcc"], *rows["hotpotqa"]])
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("data/readme.txt", "not unpacked")
        for name in rows:
            packed.write(flat / f"{name}.jsonl", f"data/{name}.jsonl")
    holder = tmp_path / "cloned"
    holder.mkdir()
    (holder / "data.zip").write_bytes(archive.read_bytes())
    found = [load(path=str(path), subsets=list(rows)) for path in (flat, official, mirror, one, archive, holder)]
    assert len(found[0].examples) == 6
    assert all(each.examples == found[0].examples for each in found)
    assert found[3].places[0] == f"{one}:4", "in the order of the subsets, with positions in the file"
    assert [each.reference["subset"] for each in load(path=str(one), subset="lcc").examples] == ["lcc"] * 3
    assert len(load(path=str(flat), subset="lcc").examples) == 3


def test_a_file_named_for_its_subset_needs_no_column(tmp_path):
    row = make_row("qasper")
    del row["dataset"]
    assert len(load(path=str(write_rows(tmp_path / "qasper.jsonl", [row])), subset="qasper").examples) == 1


def test_missing_files_are_reported_in_one_sentence(tmp_path):
    folder = write_rows(tmp_path / "rows" / "lcc.jsonl", [make_row("lcc")]).parent
    with pytest.raises(DataError, match=r"no rows of qasper \(qasper.jsonl\); name those that are there"):
        load(path=str(folder), subsets=["lcc", "qasper"])
    with pytest.raises(DataError, match="no rows of qasper; there are: lcc"):
        load(path=str(folder / "lcc.jsonl"), subset="qasper")
    with pytest.raises(DataError, match="no such file or folder"):
        load(path=str(tmp_path / "none"), subset="lcc")
    other = tmp_path / "rows.txt"
    other.write_text("a")
    with pytest.raises(DataError, match="neither a zip nor"):
        load(path=str(other), subset="lcc")
    with pytest.raises(DataError, match="no split called train"):
        prepare_split(str(folder), "train")


def prepare_split(path: str, split: str):
    from utils.data.splits import load_splits

    config = longbench.Config(path=path, subset="lcc", train_split=split)
    return load_splits(longbench.describe_instructions(config), config, 42)


def test_a_split_can_be_sliced(tmp_path):
    file = write_rows(tmp_path / "lcc.jsonl", [make_row("lcc", number) for number in range(9)])
    assert len(prepare_split(str(file.parent), "test[:5]").train.rows) == 5


def test_rows_of_one_context_are_held_out_together(tmp_path):
    rows = [make_row("qasper", number, context=f"Paper {number // 4}. " * 9) for number in range(40)]
    file = write_rows(tmp_path / "qasper.jsonl", rows)

    def hold_out(path: Path, seed: int):
        from utils.data.splits import load_splits

        config = longbench.Config(path=str(path), subset="qasper")
        splits = load_splits(longbench.describe_instructions(config), config, seed)
        train = {splits.train.rows[index]["_id"] for index in splits.train_positions}
        return train, splits.train.identify(splits.validation_positions)

    train, held_out = hold_out(file, 1)
    assert len(held_out) == 4
    papers = [{int(name.split("-")[1]) // 4 for name in names} for names in (train, held_out)]
    assert not papers[0] & papers[1]
    turned = write_rows(tmp_path / "turned" / "qasper.jsonl", rows[::-1])
    again = hold_out(turned, 1)
    assert {int(name.split("-")[1]) // 4 for name in again[1]} == papers[1], (
        "the held-out papers do not depend on the order"
    )
    assert set(hold_out(file, 2)[1]) != set(held_out)


def test_empty_answers_are_counted_and_dropped(tmp_path, prepare_set):
    rows = [make_row("qasper", number, answers=[""] if number == 3 else ["yes"]) for number in range(40)]
    file = write_rows(tmp_path / "qasper.jsonl", rows)
    data = prepare_set("longbench", file, subset="qasper", max_empty_share=0.1)
    reports = data.reports
    assert reports["train"].empty_rows + reports["validation"].empty_rows == 1
    assert min(sum(label != -100 for label in row["labels"]) for row in data.train) > 0
    assert len(reports["train"].held_out_ids) == 4
    assert len(list(data.read_train())) == reports["train"].rows_used + reports["train"].empty_rows


# -- prompts ------------------------------------------------------------------------------------------------------


def test_every_subset_has_a_built_in_prompt():
    prompts = load_prompts(None, SUBSETS)
    assert list(prompts.templates) == list(SUBSETS)
    assert prompts.facts["prompts"] == "own wording"
    assert load_prompts(None, ["lcc"]).digest != prompts.digest


def test_official_prompts_are_read_and_recorded(tmp_path):
    file = tmp_path / "dataset2prompt.json"
    file.write_text(json.dumps({"hotpotqa": "Read {context}\nQ {input} A: ", "lcc": "x"}), "utf-8")
    spec = describe(prompts_file=str(file), subset="hotpotqa")
    example = spec.read_row(make_row())
    assert example.prompt == f"Read {make_row()['context']}\nQ Who wrote book 0? A: "
    assert example.answer == "Ann 0", "the prompt ends with a space"
    assert spec.facts["prompts"] == "dataset2prompt.json"
    assert len(spec.facts["prompts_hash"]) == 12
    assert spec.facts["prompts_hash"] != describe(subset="hotpotqa").facts["prompts_hash"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"lcc": "x {context}"}', "no prompt for hotpotqa; give it one"),
        ('{"hotpotqa": "Q {input}"}', "lacks {context}, which its rows need"),
        ('{"hotpotqa": "{context}"}', "lacks {input}"),
        ('{"hotpotqa": "{context}{input}{answers}"}', "has {answers}"),
        ('{"hotpotqa": "{context}{context}{input}"}', "{context} twice"),
        ('{"hotpotqa": "{context} {"}', "write {{ and }}"),
        ('["a"]', "not an object of prompts"),
        ('{"hotpotqa": 3}', "not an object of prompts"),
        ('{"hotpotqa"', "not JSON"),
    ],
)
def test_a_bad_file_of_prompts_is_refused(tmp_path, content, message):
    file = tmp_path / "prompts.json"
    file.write_text(content, "utf-8")
    with pytest.raises(DataError, match=message.replace("{", r"\{")):
        describe(prompts_file=str(file), subset="hotpotqa")


def test_a_missing_file_of_prompts_is_named():
    with pytest.raises(DataError, match=r"none.json: no such file of prompts \(prompts_file\)"):
        describe(prompts_file="none.json")


def test_one_template_serves_all_subsets():
    spec = describe(prompt_template="{context}\n{input}\nA:")
    assert spec.read_row(make_row("lcc")).prompt.endswith("\nA:")
    assert spec.facts["prompts"] == "dataset.prompt_template"
    with pytest.raises(DataError, match=r"lacks \{input\}"):
        describe(prompt_template="{context}")


# -- real rows ----------------------------------------------------------------------------------------------------


@needs_rows
def test_all_real_rows_are_read():
    rows = load(path=str(REAL / "longbench"))
    assert len(rows.examples) == 237
    assert {each.reference["subset"] for each in rows.examples} == set(SUBSETS)
    assert all(each.prompt.count(each.context) == 1 for each in rows.examples)
    classes = {each.reference["subset"] for each in rows.examples if each.reference["all_classes"]}
    assert classes == {"trec", "lsht"}


@pytest.mark.skipif(
    not (REAL / "longbench_config").is_dir(), reason="the official configuration is missing (LORA_NS_REAL_DATA)"
)
def test_the_table_and_prompts_equal_the_official_ones():
    lengths = json.loads((REAL / "longbench_config" / "dataset2maxlen.json").read_text("utf-8"))
    assert {name: subset.max_new_tokens for name, subset in SUBSETS.items()} == lengths
    file = REAL / "longbench_config" / "dataset2prompt.json"
    official = json.loads(file.read_text("utf-8"))
    row = make_row()
    for name, template in load_prompts(str(file), SUBSETS).templates.items():
        assert template.render(row) == official[name].format(**row)
    own = json.loads(OWN_FILE.read_text("utf-8"))
    assert not set(own.values()) & set(official.values()), "our prompt has its own wording"


def test_only_the_13_subsets_of_longbench_e_have_its_names():
    assert sum(each.in_e for each in SUBSETS.values()) == 13
    assert find_subset("hotpotqa_e") is SUBSETS["hotpotqa"]
    for name in ("musique_e", "hotpotqa_e_e", "x"):
        with pytest.raises(KeyError):
            find_subset(name)
