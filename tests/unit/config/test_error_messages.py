"""Messages for mistakes: what was found, what is expected, and the nearest valid name."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from utils.config.document import Document, SourceLocation
from utils.config.error_messages import describe_type, explain_errors, suggest
from utils.config.section import Section


class Inner(Section):
    bits: Literal[4, 8] = 4
    name: str = "x"

    @model_validator(mode="after")
    def _agree(self) -> Inner:
        if self.name == "bad":
            raise ValueError("bad contradicts bits; drop it")
        return self


class Outer(Section):
    ALIASES: ClassVar[dict[str, str]] = {"rank": "lora_r"}

    lora_r: int = Field(8, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    bias: Literal["none", "all"] = "none"
    inner: Inner | None = None
    names: str | list[str] | None = None
    path: str


def explain(values: dict[str, Any], elsewhere: dict[str, str] | None = None) -> list[str]:
    places = {("peft",): SourceLocation("f", 1)} | {
        ("peft", key): SourceLocation("f", line) for line, key in enumerate(values, 2)
    }
    document = Document({"peft": values}, places, "f")
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return [str(each) for each in explain_errors(caught.value, Outer, ("peft",), document, elsewhere or {})]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"lora_rr": 8}, "f:2  peft.lora_rr: unknown key; did you mean lora_r?"),
        ({"Lora_R": 8}, "f:2  peft.Lora_R: unknown key; did you mean lora_r?"),
        ({"rankk": 8}, "f:2  peft.rankk: unknown key; did you mean lora_r?"),
        ({"zzz": 8}, "f:2  peft.zzz: unknown key; use one of: lora_r, lora_dropout, bias, inner, names, path, rank"),
        ({"seed": 8}, "f:2  peft.seed: not a key of this section; seed belongs at the top of the file"),
        ({"lora_r": True}, "f:2  peft.lora_r: true is not allowed; use a whole number from 1"),
        ({"lora_r": 0}, "f:2  peft.lora_r: 0 is not allowed; use a whole number from 1"),
        ({"lora_r": [8]}, "f:2  peft.lora_r: [8] is not allowed; use a whole number from 1"),
        ({"lora_dropout": 1}, "f:2  peft.lora_dropout: 1 is not allowed; use a number from 0 below 1"),
        ({"bias": "non"}, "f:2  peft.bias: 'non' is not allowed; did you mean none?"),
        ({"bias": 7}, "f:2  peft.bias: 7 is not allowed; use one of: none, all"),
        ({"names": {"a": 1}}, "f:2  peft.names: a mapping is not allowed; use text or a list of text or null"),
        ({"inner": 3}, "f:2  peft.inner: 3 is not allowed; use a mapping or null"),
        ({"inner": {"bitz": 3}}, "f:2  peft.inner.bitz: unknown key; did you mean bits?"),
        ({"inner": {"name": "bad"}}, "f:2  peft.inner: bad contradicts bits; drop it"),
        ({"inner": {"bits": 5}}, "f:2  peft.inner.bits: 5 is not allowed; use one of: 4, 8"),
        (
            {"names": "x" * 100, "lora_r": "y" * 100},
            f"f:3  peft.lora_r: '{'y' * 56}... is not allowed; use a whole number",
        ),
        ({"names": 5}, "f:2  peft.names: 5 is not allowed; use text or a list of text or null (write it in quotes)"),
    ],
)
def test_sentence(values: dict[str, Any], sentence: str) -> None:
    found = explain({**values, "path": "p"}, {"seed": "seed belongs at the top of the file"})
    assert len(found) == 1
    assert found[0].startswith(sentence)


def test_a_missing_key_is_located_at_its_section() -> None:
    assert explain({"lora_r": 8}) == ["f:1  peft.path: missing; add it under peft:"]


def test_all_mistakes_of_a_section() -> None:
    assert len(explain({"lora_r": 0, "bias": 1, "zzz": 2})) == 4


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number or null"),
        (list[int], "a list of whole numbers"),
        (list[float], "a list of numbers"),
        (Literal["a", "b"], "one of: a, b"),
        (dict[str, Any], "a mapping"),
        (str | list[str], "text or a list of text"),
        (bool, "true or false"),
    ],
)
def test_describe_type(annotation: Any, words: str) -> None:
    assert describe_type(annotation) == words


def test_suggest() -> None:
    assert suggest("glu", ["glue", "custom"]) == "; did you mean glue?"
    assert suggest("zzz", ["glue", "custom"]) == "; use one of: glue, custom"
    assert suggest("zzz", [f"name{index}" for index in range(30)]) == "; see configs/template.yaml"
