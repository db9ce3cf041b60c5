"""Locates checkpoints, reads their files without ML libraries, and pins hub models to a commit."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.sections.model import ModelSection, is_local
from utils.core.cache_folder import hub_cache
from utils.core.errors import ModelError
from utils.core.json_files import find_object
from utils.core.library_errors import require_readable
from utils.modeling.hub_errors import explain_loading

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from transformers import PreTrainedConfig

OWN_TEMPLATES = ("chatml", "r1")
TEMPLATES = "chatml, r1, the name of a template that trl ships (qwen3_training ...), or the path of a Jinja template"
"""Description of the values of model.chat_template."""


def find_template(name: str) -> Path | None:
    """Find the file of a chat template, given its path or the name of one that trl ships; None: there is none."""
    own = Path(name).expanduser()
    if own.is_file():
        return own
    trl = importlib.util.find_spec("trl")
    folders = trl.submodule_search_locations if trl is not None else None
    shipped = [Path(folder, "chat_templates", f"{own.name}.jinja") for folder in folders or ()]
    return next((file for file in shipped if own.name == name and file.is_file()), None)


def local_problems(section: ModelSection) -> Iterator[tuple[str, str]]:
    """Yield problems that need neither network nor ML libraries to find, as pairs of key and message."""
    if is_local(section.name_or_path) and (problem := folder_problem(section)):
        yield "name_or_path", problem
    template = section.chat_template
    if template is not None and template not in OWN_TEMPLATES and find_template(template) is None:
        yield "chat_template", f"no file {template}; use {TEMPLATES}"


def folder_problem(section: ModelSection) -> str | None:
    """Explain why the folder that the section names is not a base model, or return None if it looks like one."""
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
    """Read the checkpoint's config.json from its folder or the hub's local cache; None: missing or not JSON."""
    folder = find_folder(section)
    if folder is None:
        return None
    return find_object(folder / "config.json") or None


def find_folder(section: ModelSection) -> Path | None:
    """Return the local folder of a model's files; None: a hub model that is not in the cache."""
    return Path(section.location) if is_local(section.name_or_path) else _cached_folder(section)


def _cached_folder(section: ModelSection) -> Path | None:
    """Find a repository's snapshot in the hub's cache by its documented layout, without huggingface_hub."""
    repository = f"{hub_cache()}/models--{section.name_or_path.replace('/', '--')}"
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
    """Return the arguments that all `from_pretrained` calls for this checkpoint share, except trust_remote_code.

    A hub name is first resolved to its commit by one quick request. Config, tokenizer and weights then come from the
    same commit, cached files need no network, and an unreachable hub is noticed at once, not after the library's
    retries (23 s for every file).

    Raises:
        ModelError: The folder is not a checkpoint.
        OSError: The hub denies access or cannot be reached (call it inside `explain_loading`).
    """
    from transformers import dynamic_module_utils

    # Without trust_remote_code, transformers would prompt on standard input, which may be a stream of rows.
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    if not is_local(section.name_or_path):
        return _pin(section.name_or_path, section.revision, section.token)
    if problem := folder_problem(section):
        raise ModelError(f"model.name_or_path: {problem}")
    require_readable(Path(section.location))
    return {}


def load_config(section: ModelSection) -> PreTrainedConfig:
    """Load only the checkpoint's configuration.

    Raises:
        ModelError: It is unavailable.
    """
    from transformers import AutoConfig

    with explain_loading(section):
        return AutoConfig.from_pretrained(
            section.location, trust_remote_code=section.trust_remote_code, **loading_arguments(section)
        )


def resolved_commit(model_or_config: Any) -> str | None:
    """Return the hub commit of a model loaded by `load_base_model`, or of its config; None for a folder."""
    config = getattr(model_or_config, "config", model_or_config)
    commit: str | None = getattr(config, "_commit_hash", None)
    return commit


@cache
def _pin(name: str, revision: str | None, token: bool | None) -> dict[str, Any]:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import is_offline_mode

    api = HfApi()
    # If the hub does not answer, the library would retry for every file.
    cache_only = is_offline_mode() or not _is_reachable(api, name, revision, token)
    resolved = api.resolve_revision(name, revision=revision, token=token, local_files_only=cache_only)
    arguments = {"token": token, "revision": str(resolved.resolved)}
    return {**arguments, "local_files_only": True} if cache_only else arguments


def _is_reachable(api: HfApi, name: str, revision: str | None, token: bool | None) -> bool:
    """Query the hub once, without retries: raise if access is denied, return False if there is no answer."""
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
