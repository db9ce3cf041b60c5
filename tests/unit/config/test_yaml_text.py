"""YAML 1.2 scalars: numbers, strings and nulls; written strings read back as strings."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from utils.config.yaml_text import dump_yaml, parse_value


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "y", "n", "On", "NO", "1.2.3", "1e", "e5", "0x", "a=b"])
def test_words_stay_strings(word: str) -> None:
    assert parse_value(word) == word


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("TRUE", True),
        ("null", None), ("~", None), ("", None), ("Null", None), ("# only a comment", None),
        ("2e-5", 2e-5), ("2E-5", 2e-5), ("2.0e-5", 2e-5), ("2.e-5", 2e-5), (".00002", 2e-5), ("0.00002", 2e-5),
        ("+2e-5", 2e-5), ("-2e-5", -2e-5), ("1e3", 1000.0), ("1_000.5", 1000.5),
        ("10", 10), ("+10", 10), ("-10", -10), ("1_000", 1000), ("1_", 1), ("0777", 777), ("0o17", 15), ("0xff", 255),
        (".inf", float("inf")), ("-.INF", float("-inf")), ("+.Inf", float("inf")),
        ("'2e-5'", "2e-5"), ('"true"', "true"), ("'null'", "null"),
        ("2024-01-31", "2024-01-31"), ("12:30:45", "12:30:45"), ("!!str 5", "5"), ("!!float 5", 5.0),
    ],
)  # fmt: skip
def test_scalars(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_float() -> None:
    found = parse_value(".NaN")
    assert isinstance(found, float)
    assert found != found


TEXTS = [
    "2e-5", "1e5", "12e45", "0o17", "0x1f", "1_000", "no", "on", "off", "yes", "true", "null", "~", "", "5", ".5", "1.",
    ".inf", ".NaN", "<<", "2024-01-31", "12:30:45", "- a", "a: b", "# a", "a #b", "*a", "&a", "!a", "{a}", "[a]", "'",
    '"', "你好", "caf\u00e9", "a\nb", "a\tb", " a ", "\u2028", "e5", "=", "%a", "@a", "`a", "|", ">", "?", "-",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_written_strings_read_back_as_strings(text: str) -> None:
    written = dump_yaml({"key": text, text: [text]})
    assert parse_value(written) == {"key": text, text: [text]}
    assert yaml.safe_load(written) == {"key": text, text: [text]}


@pytest.mark.parametrize("number", [3e-4, 1e-05, 2e-5, 1e22, 0.1, 5, -3, True, None, 1.0, float("inf")])
def test_written_numbers_read_back_as_the_same_number(number: Any) -> None:
    written = dump_yaml({"key": number})
    assert parse_value(written) == yaml.safe_load(written) == {"key": number}
    assert type(parse_value(written)["key"]) is type(number)


def test_one_list_in_two_places_is_written_twice() -> None:
    names = ["query", "value"]
    assert "&" not in dump_yaml({"a": names, "b": names})
