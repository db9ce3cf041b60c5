"""Where the project lies, and how its commands are called: in a clone, or as the installed package `lora_ns`.

In a clone the library is `utils`, and the commands are scripts beside it. Installed it is `lora_ns`, the scripts,
configs/, docs/ and examples/ lie in its folder shipped/, and `lora-ns` runs them.
"""

from __future__ import annotations

import importlib.abc
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

VERSION = "0.2.0"
"""The one place of the version: pyproject.toml reads it."""

LIBRARY = Path(__file__).resolve().parents[1]
PACKAGE = __name__.partition(".")[0]
"""The name under which the library is imported."""
_INSTALLED = "lora_ns"
IS_INSTALLED = PACKAGE == _INSTALLED
ROOT = LIBRARY / "shipped" if IS_INSTALLED else LIBRARY.parent
"""The folder of the commands, of configs/, docs/ and examples/."""
PROGRAM = "lora-ns" if IS_INSTALLED else f"python -m {PACKAGE}"
"""How the one command is called that has all others."""

COMMANDS = {
    "train": "train.py",
    "infer": "inference.py",
    "evaluate": "evaluate_model.py",
    "merge": "merge_adapter.py",
    "benchmark": "benchmark.py",
    "validate": "validate_config.py",
}
"""The scripts, by the words that `lora-ns` takes."""
_SCRIPT = re.compile(rf"(?:python )?\b({'|'.join(map(re.escape, COMMANDS.values()))})")
_LAUNCHED = re.compile(r"((?:accelerate launch|torchrun)(?: \S+)*?) train\.py")
_PAGE = re.compile(r"\bdocs/(\w+)\.md")
_WORDS = {script: word for word, script in COMMANDS.items()}


def as_called(text: str) -> str:
    """Name commands and pages as they are called here: `python train.py` is `lora-ns train` where installed."""
    if not IS_INSTALLED:
        return text
    text = _LAUNCHED.sub(rf"\1 -m {_INSTALLED} train", text)  # launchers take a module, and no command
    text = _SCRIPT.sub(lambda found: f"lora-ns {_WORDS[found[1]]}", text)
    return _PAGE.sub(r"lora-ns docs \1", text)


def find_config(name: str | Path, folder: str = "configs") -> Path:
    """Find a file by its path, or a shipped one: `quickstart` is `configs/quickstart.yaml`, found from anywhere."""
    given = Path(name)
    inside = Path(folder, f"{name}.yaml") if given.name == str(name) else given
    is_shipped = inside.parts[:1] == ("configs",) and not given.exists() and (ROOT / inside).is_file()
    return ROOT / inside if is_shipped else given


class _InstalledName(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the modules of the library under the name `lora_ns` as well: the same modules, not copies."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Answer for `lora_ns` and what lies in it."""
        return ModuleSpec(name, self) if name.partition(".")[0] == _INSTALLED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Give the library's own module; its spec, which the import is about to write over, is kept."""
        module = importlib.import_module(PACKAGE + spec.name.removeprefix(_INSTALLED))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec again; it has run already."""
        assert module.__spec__ is not None, "it was just imported"
        module.__spec__ = module.__spec__.loader_state


def answer_to_installed_name() -> None:
    """Let `lora_ns` mean the library in a clone too, so that one file of plug-ins serves both."""
    if not IS_INSTALLED and not any(isinstance(each, _InstalledName) for each in sys.meta_path):
        sys.meta_path.insert(0, _InstalledName())
