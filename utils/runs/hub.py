"""Pushes a finished run to the hub: its final_model with a card, and nothing else unless it is named."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.saved_adapter import ADAPTER_CONFIG
from utils.config.run_config import RunConfig
from utils.config.sections.model import is_local
from utils.core.errors import LoraNsError
from utils.core.logs import is_main_process
from utils.core.secrets import mask_text
from utils.results.json_file import replace_file
from utils.results.labels import is_score, scale
from utils.results.record import RunRecord
from utils.tasks.task import load_task

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"

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
    files: dict[str, Path]
    """By the name that each gets."""

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
    with replace_file(path / "final_model" / CARD) as beside:
        whole = not (path / "final_model" / ADAPTER_CONFIG).is_file()
        beside.write_text(build_card(config, record, whole), encoding="utf-8")
    push = plan_push(path, config)
    seen = "private" if push.private else "public"
    listed = "".join(f"\n  {name}  ({file.stat().st_size:,} bytes)" for name, file in push.files.items())
    logger.info("%s to the %s repository %s:%s", "would push" if dry_run else "pushing", seen, push.repo, listed)
    if not dry_run:
        with _explain(path, push.repo):
            url = _push(push)
        logger.info("pushed: %s", url)
    return {"pushed": {**push.to_dict(), "dry_run": dry_run}}


def plan_push(path: Path, config: RunConfig) -> Push:
    """Choose what is pushed: the files of final_model/, and those of the run's folder that `hub_files` names."""
    final, arguments = path / "final_model", config.arguments
    files = {each.relative_to(final).as_posix(): each for each in sorted(final.rglob("*")) if each.is_file()}
    for pattern in config.training.hub_files:
        found = [each for each in sorted(path.glob(pattern)) if each.is_file()]
        if not found:
            logger.warning("training.hub_files: %s names no file in %s", pattern, path)
        files |= {each.relative_to(path).as_posix(): each for each in found}
    private = arguments.get("hub_private_repo") is not False
    repo = arguments.get("hub_model_id") or path.resolve().name
    return Push(str(repo), private, arguments.get("hub_revision"), files)


def build_card(config: RunConfig, record: RunRecord, whole: bool) -> str:
    """Write the model's card: what it was made from and by, what it scored, how a whole model or an adapter is used."""
    from huggingface_hub import ModelCardData

    base = config.model.name_or_path
    name = Path(base).name if is_local(base) else base
    facts = ModelCardData(
        base_model=None if is_local(base) else base,
        library_name="transformers" if whole else "peft",
        pipeline_tag=load_task(config.task).PIPELINE,
        tags=["lora-ns", *([] if config.peft.method == "none" else [config.peft.method])],
    )
    scores = "".join(
        f"| {key}{' x100' if is_score(key) else ''} | {scale(key, value):.4g} |\n"
        for key, value in record.metrics.items()
        if value is not None
    )
    made = "fine-tuned as a whole" if config.peft.method == "none" else f"fine-tuned by {config.peft.method}"
    return (
        f"---\n{facts.to_yaml()}\n---\n\n# {config.task_name}\n\n{name}, {made} with lora-ns "
        f"(seed {config.seed}; run.yaml holds the whole configuration).\n\n"
        + (f"| metric | value |\n|---|---|\n{scores}\n" if scores else "")
        + '```bash\npython inference.py --run FOLDER --input_text "..."   # FOLDER: a copy of this repository\n```\n'
    )


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
