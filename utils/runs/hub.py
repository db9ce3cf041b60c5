"""Talks to the hub: pushes files as one commit, and fetches a run that was pushed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
"""Opens the name of a run that is on the hub: `hub:owner/name`, or `hub:owner/name@revision`."""
_NOT_FETCHED = ["checkpoint-*/*", "*.pt", "*.pth", "*.pkl", "*.gguf", "logs/*"]


class PushError(LoraNsError):
    """Everything is here and kept, and could not be pushed."""


@dataclass(frozen=True)
class Push:
    """What goes where."""

    repo: str
    """Name of the repository; the user's own where it names no owner."""
    private: bool
    """Whether the repository must not be public."""
    revision: str | None
    """Branch; None: the main one."""
    files: dict[str, Path | bytes]
    """By the name that each gets; as bytes what is rewritten, without the paths of this machine."""
    withheld: dict[str, str] = field(default_factory=dict)
    """What lies beside them and stays here, and why."""

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the files in bytes."""
        return {
            name: len(each) if isinstance(each, bytes) else each.stat().st_size for name, each in self.files.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Give it for `--json`, with the files' sizes in bytes."""
        kept = {name: getattr(self, name) for name in ("repo", "private", "revision", "withheld")}
        return {**kept, "files": self.sizes}


def require_repository_name(name: str) -> None:
    """Check the name of a repository without asking the hub.

    Raises:
        UserError: It is none.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name!r} is no name of a repository ({error}); give NAME, or OWNER/NAME") from None


def send(push: Push, source: str, public_by: str) -> tuple[str, str]:
    """Push as one commit, and give its address and the repository's whole name.

    Args:
        push: What goes where.
        source: What is pushed, as the user calls it.
        public_by: The words that allow a public repository.

    Raises:
        PushError: The hub refused it, or it cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with _explained(source, push.repo):
        api = HfApi()
        repo = push.repo if "/" in push.repo else f"{api.whoami()['name']}/{push.repo}"
        _open_repository(api, repo, push.private, public_by)
        if push.revision is not None:
            api.create_branch(repo, branch=push.revision, exist_ok=True)
        # not upload_folder: it would take all that lies there, and leave files of its own
        files = {name: _name_repository(file, repo) if name == CARD else file for name, file in push.files.items()}
        operations = [CommitOperationAdd(name, file) for name, file in files.items()]
        message = "Push the model by lora-ns"
        commit = api.create_commit(repo, operations, commit_message=message, revision=push.revision)
        return str(commit.commit_url), repo


def find_run_folder(name: str | Path) -> Path:
    """Give the folder that a run's name means; one of the hub is downloaded into the hub's cache.

    Raises:
        ModelError: The hub has no such repository for this user, or it holds no run, or the hub cannot be reached.
    """
    if not is_on_hub(name):
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download

    repo, _, revision = str(name).removeprefix(PREFIX).partition("@")
    require_repository_name(repo)
    with explain_hub(repo, revision or None, error=ModelError):
        folder = Path(snapshot_download(repo, revision=revision or None, ignore_patterns=_NOT_FETCHED))
    if not any((folder / each).is_file() for each in ("run.yaml", "merged_run.yaml")):
        raise ModelError(f"{name}: holds no run.yaml, so it is no run; a whole model is named by --model OWNER/NAME")
    return folder


def is_on_hub(name: str | Path) -> bool:
    """Tell whether a run is named as one of the hub."""
    return str(name).startswith(PREFIX)


def _name_repository(card: Path | bytes, repo: str) -> bytes:
    written = card if isinstance(card, bytes) else card.read_bytes()
    return name_place(written.decode("utf-8"), repo).encode()


def _open_repository(api: HfApi, repo: str, private: bool, public_by: str) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        is_private = bool(api.model_info(repo).private)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private)
        return
    if private and not is_private:
        raise PushError(f"{repo} is there already, and public: {public_by} to push to it, or name another one")


@contextmanager
def _explained(source: str, repo: str) -> Iterator[None]:
    from huggingface_hub import get_token
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import BadRequestError

    if is_offline_mode():
        raise PushError(f"{source} was not pushed to {repo}: HF_HUB_OFFLINE forbids to ask the hub; unset it")
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
