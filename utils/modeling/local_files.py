"""What a local checkpoint tells without any ML library: its config.json, its chat template, why it is none."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from utils.config.sections.model import ModelSection, is_local
from utils.core.json_files import find_object

TEMPLATES = "chatml, r1, the name of a template that trl ships (qwen3_training ...), or the path of a Jinja template"
"""What model.chat_template takes."""


def find_template(name: str) -> Path | None:
    """Find the file of a chat template: a path, or the name of one that trl ships; None: there is none."""
    own = Path(name).expanduser()
    if own.is_file():
        return own
    trl = importlib.util.find_spec("trl")
    folders = trl.submodule_search_locations if trl is not None else None
    shipped = [Path(folder, "chat_templates", f"{own.name}.jinja") for folder in folders or ()]
    return next((file for file in shipped if own.name == name and file.is_file()), None)


def local_problems(section: ModelSection) -> list[str]:
    """Check what can be checked without network and ML libraries.

    Returns:
        One sentence per problem, empty when nothing was found.
    """
    problems = []
    if is_local(section.name_or_path) and (problem := folder_problem(section)):
        problems.append(problem)
    template = section.chat_template
    if template is not None and template not in ("chatml", "r1") and find_template(template) is None:
        problems.append(f"chat_template: no file {template}; use {TEMPLATES}")
    return problems


def folder_problem(section: ModelSection) -> str | None:
    """Say why the folder that the section names is no base model, None when it looks like one."""
    folder = Path(section.location)
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.exists() else "does not exist"
        return f"{folder} {found}; name a folder that holds config.json, or a hub name such as Qwen/Qwen2.5-0.5B"
    if (folder / "adapter_config.json").is_file():
        return f"{folder} holds an adapter, not a base model; {_base_of_adapter(folder)}"
    if not (folder / "config.json").is_file():
        inner = folder / "final_model"
        hint = f"; perhaps {inner} is meant" if (inner / "config.json").is_file() else ""
        return f"{folder} holds no config.json, so it is not a checkpoint{hint}"
    return None


def read_model_config(section: ModelSection) -> dict[str, Any] | None:
    """Read the checkpoint's config.json from its folder or from the hub's local cache.

    Returns:
        The parsed file (`model_type`, `architectures`, ...), or None when it is not here or not JSON.
    """
    folder = find_folder(section)
    if folder is None:
        return None
    return find_object(folder / "config.json") or None


def find_folder(section: ModelSection) -> Path | None:
    """Find where a model's files are on this machine; None: a model of the hub that is not in the cache."""
    return Path(section.location) if is_local(section.name_or_path) else _cached_folder(section)


def _cached_folder(section: ModelSection) -> Path | None:
    """Find a repository's snapshot in the hub's cache by its documented layout, without huggingface_hub."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    repository = cache / f"models--{section.name_or_path.replace('/', '--')}"
    revision = section.revision or "main"
    try:
        commit = (repository / "refs" / revision).read_text("utf-8").strip()
    except OSError:
        commit = revision
    folder = repository / "snapshots" / commit
    return folder if folder.is_dir() else None


def _base_of_adapter(folder: Path) -> str:
    base = find_object(folder / "adapter_config.json").get("base_model_name_or_path")
    return f"its base is {base}" if base else "name the base model that it was trained on"
