"""Pushes a finished run to the hub: its final_model with a card, and nothing else unless it is named."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.run_config import RunConfig
from utils.config.sections.model import is_local
from utils.config.yaml_text import dump_yaml
from utils.core.errors import LoraNsError
from utils.core.logs import is_main_process
from utils.core.secrets import mask_text
from utils.results.record import RunRecord
from utils.runs.model_card import write_card

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)


class PushError(LoraNsError):
    """The run is done, and could not be pushed."""


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
    """By the name that each gets; the run's configuration as bytes, without the paths of this machine."""

    def to_dict(self) -> dict[str, Any]:
        """Give it for `--json`."""
        return {"repo": self.repo, "private": self.private, "revision": self.revision, "files": list(self.files)}


def push_run(path: Path, config: RunConfig, record: RunRecord, dry_run: bool) -> dict[str, Any]:
    """Push a run's final_model where its file says so, or show what would be pushed, asking nobody.

    Gives what goes where, for `--json`; empty where nothing does.

    Raises:
        PushError: The hub refused it, or it cannot be reached.
    """
    if not is_main_process() or not (dry_run or config.arguments.get("push_to_hub")):
        return {}
    if record.status != "success":
        logger.warning("%s is not pushed: its status is %s", path, record.status)
        return {}
    write_card(path / "final_model", config, record)
    push = plan_push(path, config)
    seen = "private" if push.private else "public"
    sizes = {name: len(each) if isinstance(each, bytes) else each.stat().st_size for name, each in push.files.items()}
    listed = "".join(f"\n  {name}  ({size:,} bytes)" for name, size in sizes.items())
    logger.info("%s to the %s repository %s:%s", "would push" if dry_run else "pushing", seen, push.repo, listed)
    if not dry_run:
        with _explain(path, push.repo):
            url = _push(push)
        logger.info("pushed: %s", url)
    return {"pushed": {**push.to_dict(), "dry_run": dry_run}}


def plan_push(path: Path, config: RunConfig) -> Push:
    """Choose what is pushed: the files of final_model/, and those of the run's folder that `hub_files` names."""
    final, arguments = path / "final_model", config.arguments
    there = {each.relative_to(final).as_posix(): each for each in sorted(final.rglob("*")) if each.is_file()}
    files: dict[str, Path | bytes] = {**there}
    if "run.yaml" in files:
        files["run.yaml"] = dump_yaml(_without_folders(config.to_dict())).encode()
    for pattern in config.training.hub_files:
        found = [each for each in sorted(path.glob(pattern)) if each.is_file()]
        if not found:
            logger.warning("training.hub_files: %s names no file in %s", pattern, path)
        files |= {each.relative_to(path).as_posix(): each for each in found}
    private = arguments.get("hub_private_repo") is not False
    repo = arguments.get("hub_model_id") or path.resolve().name
    return Push(str(repo), private, arguments.get("hub_revision"), files)


def _without_folders(value: Any) -> Any:
    """Leave of every path of this machine its last part: whoever loads the model names their own."""
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    if not isinstance(value, str) or "/" not in value or "\n" in value:
        return value
    return Path(value).name if is_local(value) or Path(value).exists() else value


def _push(push: Push) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    repo = push.repo if "/" in push.repo else f"{api.whoami()['name']}/{push.repo}"
    _open_repository(api, repo, push.private)
    if push.revision is not None:
        api.create_branch(repo, branch=push.revision, exist_ok=True)
    # not upload_folder: it would take all that lies there, and leave files of its own
    operations = [CommitOperationAdd(name, file) for name, file in push.files.items()]
    message = "Push the final model by lora-ns"
    return str(api.create_commit(repo, operations, commit_message=message, revision=push.revision).commit_url)


def _open_repository(api: HfApi, repo: str, private: bool) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        is_private = bool(api.model_info(repo).private)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private)
        return
    if private and not is_private:
        raise PushError(
            f"{repo} is there already, and public: set training.hub_private_repo: false to push to it, or name another "
            "one by training.hub_model_id"
        )


@contextmanager
def _explain(path: Path, repo: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = mask_text(" ".join(str(error).split())[:300])
        raise PushError(
            f"{path} is done and kept, and was not pushed to {repo}: {reason}; the same command pushes it again"
        ) from error
