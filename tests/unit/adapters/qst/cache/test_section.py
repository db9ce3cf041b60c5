"""The `cache` key of QST: its spellings, defaults and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError, field_validator

from utils.adapters.qst.cache import CacheSection, read_cache, resolve_cache
from utils.config.document import Document
from utils.config.error_messages import describe_type, explain_errors
from utils.config.section import Section


class Adapter(Section):
    cache: Literal["off", "auto"] | CacheSection = "off"

    _read_cache = field_validator("cache", mode="before")(read_cache)


def explain(cache: Any) -> dict[str, str]:
    document = Document({"peft": {"cache": cache}}, source="run.yaml")
    with pytest.raises(ValidationError) as caught:
        Adapter.model_validate({"cache": cache})
    return {each.path: each.message for each in explain_errors(caught.value, Adapter, ("peft",), document, {})}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("off", None),
        (False, None),
        (None, None),
        ("Off", None),
        ("none", None),
        ("auto", CacheSection()),
        (True, CacheSection()),
        ("on", CacheSection()),
        ("disk", CacheSection(where="disk")),
        ({}, CacheSection()),
        ({"where": "disk", "dtype": "int8", "budget_gb": 2}, CacheSection(where="disk", dtype="int8", budget_gb=2.0)),
        ({"dtype": "bfloat16"}, CacheSection(dtype="bf16")),
        ({"where": "disk", "dir": "/x"}, CacheSection(where="disk", dir="/x")),
    ],
)
def test_every_spelling(written: Any, read: CacheSection | None) -> None:
    assert resolve_cache(Adapter(cache=written).cache) == read


def test_the_default_is_off_and_a_resolved_file_reads_back_the_same() -> None:
    assert Adapter().cache == "off"
    for cache in ("off", "auto", {"where": "disk", "budget_gb": 1.5}):
        first = Adapter.model_validate({"cache": cache})
        assert Adapter.model_validate(first.model_dump()) == first


def test_auto_is_exact_and_in_memory() -> None:
    found = resolve_cache("auto")
    assert found is not None
    assert (found.where, found.dtype, found.budget_gb, found.dir) == ("ram", "auto", None, None)


def test_dir_without_disk_is_refused_with_a_remedy() -> None:
    assert explain({"dir": "/x"}) == {
        "peft.cache.dir": "has no effect with where: ram; add where: disk, or leave dir out"
    }


@pytest.mark.parametrize(
    ("cache", "path", "part"),
    [
        ("never", "peft.cache", "'never' is not allowed; use off, auto, or a mapping"),
        (1, "peft.cache", "1 is not allowed"),
        ([], "peft.cache", "is not allowed"),
        ({"where": "dis"}, "peft.cache.where", "did you mean disk?"),
        ({"wher": "disk"}, "peft.cache.wher", "did you mean where?"),
        ({"dtype": "int4"}, "peft.cache.dtype", "did you mean int8?"),
        ({"budget_gb": 0}, "peft.cache.budget_gb", "a number or null above 0"),
        ({"budget_gb": True}, "peft.cache.budget_gb", "true is not allowed"),
        ({"where": "disk", "dir": " "}, "peft.cache.dir", "is empty"),
    ],
)
def test_mistakes_are_reported_with_their_location(cache: Any, path: str, part: str) -> None:
    problems = explain(cache)
    assert list(problems) == [path]
    assert part in problems[path]


def test_its_type_is_described_for_the_documentation() -> None:
    assert describe_type(Adapter.model_fields["cache"].annotation) == "one of: off, auto or a mapping"
    assert all(field.description for field in CacheSection.model_fields.values())


def test_reading_a_configuration_imports_no_torch() -> None:
    code = "import sys; import utils.adapters.qst.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[5], check=False).returncode == 0
