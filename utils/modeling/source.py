"""Pins a checkpoint to one state: a folder that looks right, or one commit of a hub repository."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from utils.errors import ModelError
from utils.modeling.section import ModelSection, folder_problem, is_local

_COMMIT = re.compile(r"[0-9a-f]{40}")


def loading_arguments(section: ModelSection) -> dict[str, Any]:
    """Give the arguments that every `from_pretrained` of this checkpoint shares.

    A hub name is first resolved to its commit by one quick request: config, tokenizer and weights then come
    from the same state of the repository, what is cached is served without network, and an unreachable hub is
    noticed at once instead of after the library's retries (23 s for every file).

    Raises:
        ModelError: The folder is no checkpoint.
        OSError: The hub refuses or cannot be reached (call it inside `explain_loading`).
    """
    arguments: dict[str, Any] = {"trust_remote_code": section.trust_remote_code}
    if not is_local(section.name_or_path):
        revision = _resolve_commit(section.name_or_path, section.revision, section.token)
        return {**arguments, "token": section.token, "revision": revision}
    if problem := folder_problem(section):
        raise ModelError(f"model.name_or_path: {problem}")
    return arguments


def resolved_commit(model_or_config: Any) -> str | None:
    """Give the hub commit that a loaded model or config came from, None for a folder."""
    config = getattr(model_or_config, "config", model_or_config)
    commit: str | None = getattr(config, "_commit_hash", None)
    return commit


@cache
def _resolve_commit(name: str, revision: str | None, token: bool | None) -> str:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.constants import is_offline_mode

    api = HfApi()
    if revision is not None and _COMMIT.fullmatch(revision):
        if not is_offline_mode() and not isinstance(
            try_to_load_from_cache(name, "config.json", revision=revision), str
        ):
            api.repo_info(name, revision=revision, token=token)
        return revision
    resolved = api.resolve_revision(name, revision=revision, token=token, local_files_only=is_offline_mode())
    return str(resolved.resolved)
