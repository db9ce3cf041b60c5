"""Fields of config classes, read from their source without importing it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from utils.config import installed
from utils.config.installed import installed_version, read_fields
from utils.core.errors import UserError

SOURCE = '''
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Optional, Union
from .kinds import Kind
from enum import Enum
raise RuntimeError("this module must never run")

class Own(str, Enum):
    FIRST = "first"
    SECOND = "second"

Variant = Literal["one", "two"]

@dataclass
class Defaults:
    number: int = field(default=-1)
    mapping: dict = field(default_factory=dict)
    member: Own = Own.FIRST
    made: float = float("3")
    variant: str | Variant = field(default="one")
    required: int

@dataclass
class Sample:
    """Text."""
    CONSTANT: ClassVar[int] = 3
    _private: int = 0
    count: int = 3
    rate: float = field(default=0.1, metadata={"help": "The rate\\n   of it."})
    maybe: Optional[int] = None
    quoted: "float | None" = None
    union: Union[str, list[str], None] = None
    choice: Literal["a", "b"] = "a"
    own: Own | str = "first"
    other: Kind | None = None
    options: dict | str | None = None
    foreign: "torch.device" = None
    unannotated = 5
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "sample_library"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('never imported')", "utf-8")
    (folder / "module.py").write_text(SOURCE, "utf-8")
    (folder / "kinds.py").write_text("from enum import Enum\nclass Kind(Enum):\n    X = 'x'\n    Y = 'y'\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "sample_library"
    for cached in (installed._parse, installed.read_fields, installed._enum_values):
        cached.cache_clear()


def test_types_from_source(package: str) -> None:
    fields = read_fields(f"{package}.module", "Sample")
    assert {name: field.annotation for name, field in fields.items()} == {
        "count": int,
        "rate": float,
        "maybe": int | None,
        "quoted": float | None,
        "union": str | list[str] | None,
        "choice": Literal["a", "b"],
        "own": Literal["first", "second"],
        "other": Literal["x", "y"] | None,
        "options": dict[str, Any] | str | None,
        "foreign": Any,
    }
    assert fields["rate"].help == "The rate of it."
    assert package not in sys.modules


def test_literal_defaults_are_read(package: str) -> None:
    fields = read_fields(f"{package}.module", "Defaults")
    assert {name: field.default for name, field in fields.items() if field.is_default_known} == {
        "number": -1,
        "mapping": {},
        "variant": "one",
    }
    assert fields["variant"].annotation == Literal["one", "two"]


def test_missing_class_and_library(package: str) -> None:
    with pytest.raises(UserError, match=r"the installed sample_library has no Missing; `pip check` names the one"):
        read_fields(f"{package}.module", "Missing")
    with pytest.raises(UserError, match="no_such_library is not installed; run pip install no_such_library"):
        read_fields("no_such_library.module", "Sample")


def test_installed_version() -> None:
    assert installed_version("pytest") == pytest.__version__
    assert installed_version("no-such-package") is None
