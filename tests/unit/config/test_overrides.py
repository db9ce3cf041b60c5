"""`key=value` overrides: values in YAML syntax, later ones win, mistakes are reported together."""

from __future__ import annotations

from typing import Any

import pytest

from utils.config.yaml_text import read_overrides
from utils.core.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("a.b=1e-4", 1e-4),
        ("a.b=null", None),
        ("a.b=", None),
        ("a.b=~", None),
        ("a.b=true", True),
        ("a.b=no", "no"),
        ("a.b=[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("a.b={bits: 4, type: nf4}", {"bits": 4, "type": "nf4"}),
        ("a.b=x=y=z", "x=y=z"),
        ("a.b='5'", "5"),
        ("a.b=''", ""),
        ("a.b=a b c", "a b c"),
        ("a.b=./out: x", {"./out": "x"}),
        ("a.b=https://x.org/y?z=1#2", "https://x.org/y?z=1#2"),
        ("a.b=你好", "你好"),
        ("a.b=[]", []),
        ("a.b={}", {}),
    ],
)
def test_values(word: str, value: Any) -> None:
    document = read_overrides([word])
    assert document.data == {"a": {"b": value}}
    assert document.place_of(("a", "b")) == "command line"


def test_a_later_override_wins() -> None:
    assert read_overrides(["a.b=1", "a.c=2", "a.b=3"]).data == {"a": {"b": 3, "c": 2}}
    assert read_overrides(["a=1", "a.b=2"]).data == {"a": {"b": 2}}


def test_all_mistakes_in_one_report() -> None:
    with pytest.raises(ConfigError) as caught:
        read_overrides(["a.b=[1", "a.c=2", "a.d={x: 1, x: 2}", "a.e=!!python/name:os.system ''"])
    assert [str(problem) for problem in caught.value.problems] == [
        "command line  a.b: '[1' is not a value in YAML syntax",
        "command line  a.d: '{x: 1, x: 2}' is not a value in YAML syntax",
        "command line  a.e: \"!!python/name:os.system ''\" is not a value in YAML syntax",
    ]
