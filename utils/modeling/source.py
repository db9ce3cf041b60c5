"""Where a checkpoint is, what its files tell without any ML library, and the one state that it is pinned to."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.sections.model import ModelSection, is_local
from utils.core.errors import ModelError
from utils.core.json_files import find_object
from utils.core.library_errors import require_readable
from utils.modeling.hub_errors import explain_loading

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from transformers import PreTrainedConfig

OWN_TEMPLATES = ("chatml", "r1")
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


def local_problems(section: ModelSection) -> Iterator[tuple[str, str]]:
    """Check what can be checked without network and ML libraries: keys of the section, each with what is wrong."""
    if is_local(section.name_or_path) and (problem := folder_problem(section)):
        yield "name_or_path", problem
    template = section.chat_template
    if template is not None and template not in OWN_TEMPLATES and find_template(template) is None:
        yield "chat_template", f"no file {template}; use {TEMPLATES}"


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
    """Read the checkpoint's config.json from its folder or from the hub's local cache; None: not here, or not JSON."""
    folder = find_folder(section)
    if folder is None:
        return None
    return find_object(folder / "config.json") or None


def find_folder(section: ModelSection) -> Path | None:
    """Find where a model's files are on this machine; None: a model of the hub that is not in the cache."""
    return Path(section.location) if is_local(section.name_or_path) else _cached_folder(section)


def _cached_folder(section: ModelSection) -> Path | None:
    """Find a repository's snapshot in the hub's cache by its documented layout, without huggingface_hub."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    hub = os.path.expanduser(os.environ.get("HF_HUB_CACHE") or f"{home}/hub")
    repository = f"{hub}/models--{section.name_or_path.replace('/', '--')}"
    if not os.path.isdir(repository):  # a suite asks for each of its runs
        return None
    revision = section.revision or "main"
    try:
        commit = Path(repository, "refs", revision).read_text("utf-8").strip()
    except OSError:
        commit = revision
    folder = Path(repository, "snapshots", commit)
    return folder if folder.is_dir() else None


def _base_of_adapter(folder: Path) -> str:
    base = find_object(folder / "adapter_config.json").get("base_model_name_or_path")
    return f"its base is {base}" if base else "name the base model that it was trained on"


def loading_arguments(section: ModelSection) -> dict[str, Any]:
    """Give the arguments that every `from_pretrained` of this checkpoint shares, beside trust_remote_code.

    A hub name is first resolved to its commit by one quick request: config, tokenizer and weights then come
    from the same state of the repository, what is cached is served without network, and an unreachable hub is
    noticed at once instead of after the library's retries (23 s for every file).

    Raises:
        ModelError: The folder is no checkpoint.
        OSError: The hub refuses or cannot be reached (call it inside `explain_loading`).
    """
    from transformers import dynamic_module_utils

    # Where a library leaves trust_remote_code out, transformers asks on standard input, where rows may stand: never.
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    if not is_local(section.name_or_path):
        return _pin(section.name_or_path, section.revision, section.token)
    if problem := folder_problem(section):
        raise ModelError(f"model.name_or_path: {problem}")
    require_readable(Path(section.location))
    return {}


def load_config(section: ModelSection) -> PreTrainedConfig:
    """Load the checkpoint's configuration alone.

    Raises:
        ModelError: It cannot be had.
    """
    from transformers import AutoConfig

    with explain_loading(section):
        return AutoConfig.from_pretrained(
            section.location, trust_remote_code=section.trust_remote_code, **loading_arguments(section)
        )


def resolved_commit(model_or_config: Any) -> str | None:
    """Give the hub commit that a model of `load_base_model`, or its config, came from; None for a folder."""
    config = getattr(model_or_config, "config", model_or_config)
    commit: str | None = getattr(config, "_commit_hash", None)
    return commit


@cache
def _pin(name: str, revision: str | None, token: bool | None) -> dict[str, Any]:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import is_offline_mode

    api = HfApi()
    # Where the hub gives no answer, the library would ask again and again for every file.
    cache_only = is_offline_mode() or not _answers(api, name, revision, token)
    resolved = api.resolve_revision(name, revision=revision, token=token, local_files_only=cache_only)
    arguments = {"token": token, "revision": str(resolved.resolved)}
    return {**arguments, "local_files_only": True} if cache_only else arguments


def _answers(api: HfApi, name: str, revision: str | None, token: bool | None) -> bool:
    """Ask the hub once, without retries; what it refuses is raised, no answer is False."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        api.repo_info(name, revision=revision, token=token)
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return False
    except HTTPError:
        return False
    return True
