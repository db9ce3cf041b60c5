"""The project's location and its commands' names: in a clone, or as the installed package `lora_ns`.

In a clone, the library is `utils` and the commands are scripts beside it. When installed, the library is
`lora_ns`, which holds the scripts, configs/, docs/ and examples/ in shipped/, and `lora-ns` runs the scripts.
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
"""The only definition of the version; pyproject.toml reads it."""

LIBRARY = Path(__file__).resolve().parents[1]
PACKAGE = __name__.partition(".")[0]
"""Name under which the library is imported."""
_INSTALLED = "lora_ns"
IS_INSTALLED = PACKAGE == _INSTALLED
ROOT = LIBRARY / "shipped" if IS_INSTALLED else LIBRARY.parent
"""Folder of the commands, configs/, docs/ and examples/."""
PROGRAM = "lora-ns" if IS_INSTALLED else f"python -m {PACKAGE}"
"""Command whose subcommands are all the others."""

COMMANDS = {
    "train": "train.py",
    "infer": "inference.py",
    "evaluate": "evaluate_model.py",
    "merge": "merge_adapter.py",
    "benchmark": "benchmark.py",
    "validate": "validate_config.py",
}
"""Scripts by `lora-ns` subcommand."""
_SCRIPT = re.compile(rf"(?:python )?\b({'|'.join(map(re.escape, COMMANDS.values()))})")
_LAUNCHED = re.compile(r"((?:accelerate launch|torchrun)(?: \S+)*?) train\.py")
_PAGE = re.compile(r"\bdocs/(\w+)\.md")
_WORDS = {script: word for word, script in COMMANDS.items()}


def as_called(text: str) -> str:
    """Rewrite names of commands and pages for this installation: `python train.py` becomes `lora-ns train`."""
    if not IS_INSTALLED:
        return text
    text = _LAUNCHED.sub(rf"\1 -m {_INSTALLED} train", text)  # launchers take a module, not a command
    text = _SCRIPT.sub(lambda found: f"lora-ns {_WORDS[found[1]]}", text)
    return _PAGE.sub(r"lora-ns docs \1", text)


def call_command(script: str) -> str:
    """Return the words after `python` that run one of the scripts from any folder."""
    return f"-m {PACKAGE} {_WORDS[script]}" if IS_INSTALLED else str(ROOT / script)


def find_config(name: str | Path, folder: str = "configs") -> Path:
    """Find a file by its path, or a shipped one by its name: `quickstart` is `configs/quickstart.yaml`."""
    given = Path(name)
    inside = Path(folder, f"{name}.yaml") if given.name == str(name) else given
    is_shipped = inside.parts[:1] == ("configs",) and not given.exists() and (ROOT / inside).is_file()
    return ROOT / inside if is_shipped else given


class _InstalledName(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes the library's modules available under `lora_ns` too, as the same module objects."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Handle `lora_ns` and its submodules."""
        return ModuleSpec(name, self) if name.partition(".")[0] == _INSTALLED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the library's own module, saving its spec, which the import system is about to overwrite."""
        module = importlib.import_module(PACKAGE + spec.name.removeprefix(_INSTALLED))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec; its code has already run."""
        assert module.__spec__ is not None, "it was just imported"
        module.__spec__ = module.__spec__.loader_state


def alias_installed_name() -> None:
    """Make `lora_ns` importable in a clone too, so that the same plug-in files work in both."""
    if not IS_INSTALLED and not any(isinstance(each, _InstalledName) for each in sys.meta_path):
        sys.meta_path.insert(0, _InstalledName())
