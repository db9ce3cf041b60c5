"""Pins a checkpoint to one state: a folder that looks right, or one commit of a hub repository."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.sections.model import ModelSection, is_local
from utils.core.errors import ModelError
from utils.core.library_errors import require_readable
from utils.modeling.local_files import folder_problem

if TYPE_CHECKING:
    from huggingface_hub import HfApi


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
