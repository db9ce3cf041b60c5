"""Reading YAML: values with their line numbers, and every way in which a file can fail to be a configuration."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.config.document import Document, SourceLocation
from utils.config.yaml_text import parse_value, read_document
from utils.core.errors import ConfigError

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: str | bytes) -> Path:
        file = tmp_path / "run.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write_file


def read_problems(file: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_document(file)
    return [str(problem).replace(f"{file}", "FILE") for problem in caught.value.problems]


def test_every_key_has_its_line(write: Write) -> None:
    file = write("task_name: a\n\n# remark\npeft:\n  lora_r: 8\n  target_modules:\n    - query\n    - value\nseed: 1\n")
    document = read_document(file)
    assert document.data == {"task_name": "a", "peft": {"lora_r": 8, "target_modules": ["query", "value"]}, "seed": 1}
    lines = {".".join(path): place.line for path, place in document.places.items()}
    assert lines == {"task_name": 1, "peft": 4, "peft.lora_r": 5, "peft.target_modules": 6, "seed": 9}
    assert document.place_of(("peft", "lora_r")) == f"{file}:5"
    assert document.place_of(("peft", "missing", "deeper")) == f"{file}:4"
    assert document.place_of(("nowhere",)) == str(file)


def test_byte_order_mark_and_windows_lines(write: Write) -> None:
    document = read_document(write(b"\xef\xbb\xbftask_name: a\r\nseed: 3\r\n"))
    assert document.data == {"task_name": "a", "seed": 3}
    assert document.places["seed",].line == 2


def test_chinese_text(write: Write) -> None:
    assert read_document(write("task_name: 情感分类\n")).data == {"task_name": "情感分类"}


def test_anchors_and_merges(write: Write) -> None:
    document = read_document(
        write("base: &base\n  lora_r: 8\n  bias: none\npeft:\n  lora_r: 16\n  <<: *base\nlist: [*base, *base]\n")
    )
    assert document.data["peft"] == {"lora_r": 16, "bias": "none"}
    assert document.data["list"] == [document.data["base"]] * 2
    assert document.places["peft", "lora_r"].line == 5, "its own line, although the merge comes after it"
    assert document.places["peft", "bias"].line == 3


def test_of_several_merged_mappings_the_first_wins(write: Write) -> None:
    document = read_document(write("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}\n"))
    assert document.data["c"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "FILE  the file is empty; see configs/template.yaml"),
        ('a: "x\\0"\n', "FILE:1  a: holds a NUL or half a character, which no file or name can; remove it"),
        (
            'a: ["\\ud800"]\n',
            "FILE:1  a.0: holds a NUL or half a character, which no file or name can; remove it",
        ),
        ("# remark\n", "FILE  the file is empty; see configs/template.yaml"),
        ("---\n", "FILE  the file is empty; see configs/template.yaml"),
        ("\n- a\n", "FILE:2  the top level must be a mapping of sections (model:, peft:, dataset: ...), found a list"),
        (
            "word",
            "FILE:1  the top level must be a mapping of sections (model:, peft:, dataset: ...), found a single value",
        ),
        ("a:\n\tb: 1\n", "FILE:2  a tab is used for indentation; YAML needs spaces"),
        ("a: 1\nb: [1\n", "FILE:3  not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n---\nb: 1\n", "FILE:2  not YAML: but found another document"),
        ("a: *nowhere\n", "FILE:1  not YAML: found undefined alias 'nowhere'"),
        ("a: b: c\n", "FILE:1  not YAML: mapping values are not allowed here"),
        (b"a: 1\nb: \xff\n", "FILE:2  not UTF-8 text (byte 0xff); save the file as UTF-8"),
        ("a: 1\n".encode("utf-16"), "FILE:1  not UTF-8 text (byte 0xff); save the file as UTF-8"),
        (b"a: 1\nb: \x00\n", "FILE:2  not YAML: the character U+0000 is not allowed in a text file; remove it"),
        ("a: {b: 1,\n c: 2,\n b: 3}\n", "FILE:3  a.b: the key appears twice (first on line 1); keep one"),
        ("a: [{b: 1, b: 3}]\n", "FILE:1  a.0.b: the key appears twice (first on line 1); keep one"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "FILE:1  a: the tag !!python/object/apply:os.system is not allowed",
        ),
        ("a: !!python/name:os.system ''\n", "FILE:1  a: the tag !!python/name:os.system is not allowed"),
        ("a: !secret x\n", "FILE:1  a: the tag !secret is not allowed; write a plain value"),
        ("a: !!set {b}\n", "FILE:1  a: the tag !!set is not allowed; write a plain value"),
        ("a: !!int many\n", "FILE:1  a: 'many' cannot be read as int"),
        ("a: !!bool maybe\n", "FILE:1  a: 'maybe' cannot be read as bool"),
        (f"a: {'9' * 5000}\n", f"FILE:1  a: '{'9' * 40}' cannot be read as int"),
        ("? [a, b]\n: 1\n", "FILE:1  a key must be a plain word, not a list or mapping"),
        ("a: {<<: 5}\n", "FILE:1  a: << takes a mapping, such as *name for one marked &name"),
        ("a: &a [*a]\n", "FILE:1  a.0: mappings, lists or aliases nest without end"),
        ("a: &a\n  b: *a\n", "FILE:1  a.b: mappings, lists or aliases nest without end"),
        ("a: &a\n  <<: *a\n", "FILE:1  a: mappings, lists or aliases nest without end"),
        ("a: " + "[" * 6000 + "]" * 6000, "FILE  mappings, lists or aliases nest without end"),
        ("a: " + "[" * 60 + "]" * 60, f"FILE:1  a.{'.'.join('0' * 50)}: mappings, lists or aliases nest without end"),
    ],
)
def test_files_that_are_not_a_configuration(content: str | bytes, problem: str, write: Write) -> None:
    problems = read_problems(write(content))
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_a_billion_laughs_file_is_refused_quickly(write: Write) -> None:
    lines = ["a0: &a0 [lol]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "more than 20,000 values, counting what aliases repeat" in read_problems(write("\n".join(lines)))[0]


@pytest.mark.parametrize(
    "content",
    [
        "a:\n" + "".join(f"  k{index}: 1\n" for index in range(800_000)),
        "a: [" + "1," * 5_000_000 + "1]\n",
        "a: '" + "''" * 5_000_000 + "'\n",
        "# " + "x" * 10_000_000 + "\na: 1\n",
        "a: " + "[" * 5_000_000 + "]" * 5_000_000,
    ],
    ids=["keys", "list", "text", "comment", "deep"],
)
def test_a_ten_megabyte_file_is_refused(content: str, write: Write) -> None:
    started = time.process_time()
    (problem,) = read_problems(write(content))
    assert "more than 0.5 MB, which no configuration has" in problem
    assert time.process_time() - started < 2


def test_thousands_of_keys_are_read_and_merged_in_seconds(tmp_path: Path) -> None:
    from utils.run_config.load import inspect_run_config

    keys = "".join(f"  k{index}: 1\n" for index in range(9_000))
    (tmp_path / "a.yaml").write_text("model: {name_or_path: a/b}\ntraining:\n" + keys)
    (tmp_path / "b.yaml").write_text("extends: a.yaml\ntraining:\n" + keys.replace("k", "j"))
    started = time.process_time()
    inspection = inspect_run_config(tmp_path / "b.yaml")
    assert time.process_time() - started < 20
    assert len(inspection.problems) < 100
    assert any("17,950 more mistakes in this section" in problem.message for problem in inspection.problems)


def test_a_long_chain_of_aliases_terminates(write: Write) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 3000)]
    assert "mappings, lists or aliases nest without end" in read_problems(write("\n".join(lines)))[0]


def test_all_duplicates_in_one_report(write: Write) -> None:
    problems = read_problems(write("seed: 1\npeft: {a: 1, a: 2}\nseed: 2\n"))
    assert problems == [
        "FILE:2  peft.a: the key appears twice (first on line 2); keep one",
        "FILE:3  seed: the key appears twice (first on line 1); keep one",
    ]


def test_a_missing_file_suggests_the_nearest_name(write: Write) -> None:
    file = write("seed: 1\n")
    with pytest.raises(ConfigError, match=r"rum\.yaml  no such file; did you mean .*run\.yaml\?"):
        read_document(file.with_name("rum.yaml"))


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is a folder; name a YAML file in it"):
        read_document(tmp_path)


def test_parse_value_refuses_duplicate_keys() -> None:
    with pytest.raises(ConfigError, match="appears twice"):
        parse_value("{a: 1, a: 2}")


def make_document() -> Document:
    data = {"peft": {"lora_r": 8, "rank_pattern": {"a": 1}}, "seed": 1}
    places = {("peft",): 1, ("peft", "lora_r"): 2, ("peft", "rank_pattern"): 3, ("peft", "rank_pattern", "a"): 4}
    return Document(data, {path: SourceLocation("f", line) for path, line in places.items()}, "f")


def test_set_replaces_conflicting_values_and_their_locations() -> None:
    document = make_document()
    document.set(("peft", "rank_pattern"), {"b": 2}, SourceLocation("command line"))
    assert document.get(("peft", "rank_pattern")) == {"b": 2}
    assert document.place_of(("peft", "rank_pattern", "a")) == "command line"
    document.set(("seed", "deep"), 3, SourceLocation("g", 9))
    assert document.data["seed"] == {"deep": 3}


def test_has_distinguishes_null_from_absent() -> None:
    document = make_document()
    document.set(("peft", "bias"), None, SourceLocation("f", 5))
    assert document.has(("peft", "bias"))
    assert not document.has(("peft", "other"))
    assert not document.has(("seed", "deeper"))
    assert document.get(("seed", "deeper"), "default") == "default"


def test_remove_drops_the_locations_of_nested_keys() -> None:
    document = make_document()
    assert document.remove(("peft", "rank_pattern")) == {"a": 1}
    assert document.place_of(("peft", "rank_pattern", "a")) == "f:1"


def test_move_keeps_locations() -> None:
    document = make_document()
    document.move(("peft", "rank_pattern"), ("model", "ranks"))
    assert document.data["model"] == {"ranks": {"a": 1}}
    assert document.place_of(("model", "ranks", "a")) == "f:4"
    assert not document.has(("peft", "rank_pattern"))


def test_merge_works_key_by_key_and_replaces_lists() -> None:
    document = make_document()
    document.set(("names",), [1, 2], SourceLocation("f", 7))
    over = Document({"peft": {"lora_r": 4, "rank_pattern": {"b": 2}}, "names": [3]}, {}, "over")
    document.merge(over)
    assert document.data == {"peft": {"lora_r": 4, "rank_pattern": {"a": 1, "b": 2}}, "seed": 1, "names": [3]}
    assert document.place_of(("peft", "lora_r")) == "over"


def test_leaves_keep_empty_mappings() -> None:
    document = Document({"a": {"b": 1, "c": {}}, "d": []})
    assert dict(document.leaves()) == {("a", "b"): 1, ("a", "c"): {}, ("d",): []}
