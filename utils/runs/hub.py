"""The hub: push files as one commit, and fetch a run that was pushed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import LoraNsError, ModelError, UserError
from utils.core.secrets import mask_text
from utils.modeling.hub_errors import LOGIN, explain_hub
from utils.runs.model_card import CARD, name_place

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hub:"
"""Prefix of the name of a run on the hub: `hub:owner/name`, or `hub:owner/name@revision`."""
_NOT_FETCHED = ["checkpoint-*/*", "*.pt", "*.pth", "*.pkl", "*.gguf", "logs/*"]


class PushError(LoraNsError):
    """A push failed; all files are kept locally."""


@dataclass(frozen=True)
class Push:
    """The files of a push and their destination."""

    repo: str
    """Name of the repository; without an owner, the user's own."""
    private: bool
    """Whether the repository must not be public."""
    revision: str | None
    """Branch; None: the main one."""
    files: dict[str, Path | bytes]
    """Files by their names in the repository; as bytes if rewritten without local paths."""
    withheld: dict[str, str] = field(default_factory=dict)
    """Files and folders that are not pushed, with the reasons."""

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the files in bytes."""
        return {
            name: len(each) if isinstance(each, bytes) else each.stat().st_size for name, each in self.files.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the push for `--json`, with the files' sizes in bytes."""
        kept = {name: getattr(self, name) for name in ("repo", "private", "revision", "withheld")}
        return {**kept, "files": self.sizes}


def require_repository_name(name: str) -> None:
    """Check the name of a repository without contacting the hub.

    Raises:
        UserError: The name is invalid.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name!r} is not a valid repository name ({error}); give NAME, or OWNER/NAME") from None


def send(push: Push, source: str, public_by: str) -> tuple[str, str]:
    """Push as one commit; return the commit's URL and the full name of the repository.

    `source` is the user's name for what is pushed, and `public_by` the option or key that allows a public repository,
    both for messages.

    Raises:
        PushError: The hub rejected the push, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with _explained(source, push.repo):
        api = HfApi()
        repo = push.repo if "/" in push.repo else f"{api.whoami()['name']}/{push.repo}"
        _open_repository(api, repo, push.private, public_by)
        if push.revision is not None:
            api.create_branch(repo, branch=push.revision, exist_ok=True)
        # upload_folder would upload all files of the folder, and leave its own there
        files = {name: _name_repository(file, repo) if name == CARD else file for name, file in push.files.items()}
        operations = [CommitOperationAdd(name, file) for name, file in files.items()]
        message = "Push the model by lora-ns"
        commit = api.create_commit(repo, operations, commit_message=message, revision=push.revision)
        return str(commit.commit_url), repo


def find_run_folder(name: str | Path) -> Path:
    """Return the folder of a run by its name; a run on the hub is downloaded into the hub's cache.

    Raises:
        ModelError: The user cannot access the repository, it holds no run, or the hub cannot be reached.
    """
    if not is_on_hub(name):
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download

    repo, _, revision = str(name).removeprefix(PREFIX).partition("@")
    require_repository_name(repo)
    with explain_hub(repo, revision or None, error=ModelError):
        folder = Path(snapshot_download(repo, revision=revision or None, ignore_patterns=_NOT_FETCHED))
    if not any((folder / each).is_file() for each in ("run.yaml", "merged_run.yaml")):
        raise ModelError(f"{name}: has no run.yaml, so it is not a run; for a whole model use --model OWNER/NAME")
    return folder


def is_on_hub(name: str | Path) -> bool:
    """Return whether the name is of a run on the hub."""
    return str(name).startswith(PREFIX)


def _name_repository(card: Path | bytes, repo: str) -> bytes:
    written = card if isinstance(card, bytes) else card.read_bytes()
    return name_place(written.decode("utf-8"), repo).encode()


def _open_repository(api: HfApi, repo: str, private: bool, public_by: str) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    is_private: bool | None = None
    with suppress(RepositoryNotFoundError):
        is_private = bool(api.model_info(repo).private)
    if is_private is None:
        api.create_repo(repo, private=private)
    elif private and not is_private:
        raise PushError(f"{repo} already exists and is public: {public_by} to push to it, or name another one")


@contextmanager
def _explained(source: str, repo: str) -> Iterator[None]:
    from huggingface_hub import get_token
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import BadRequestError

    if is_offline_mode():
        raise PushError(f"{source} was not pushed to {repo}: HF_HUB_OFFLINE forbids contacting the hub; unset it")
    if get_token() is None:
        raise PushError(f"{source} was not pushed to {repo}: there is no login to the hub; {LOGIN}")
    try:
        with explain_hub(repo, None, error=PushError, writes=True):
            yield
    except PushError as error:
        raise PushError(f"{source} is kept, and was not pushed to {repo}: {error}") from error
    except (BadRequestError, OSError) as error:
        reason = mask_text(" ".join(str(error).split())[:300])
        raise PushError(f"{source} is kept, and was not pushed to {repo}: {reason}") from error
