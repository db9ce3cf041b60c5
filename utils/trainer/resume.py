"""The state that a checkpoint keeps beyond transformers' own, so that a resumed run ends with the same weights.

It has each process's sums and loss since the last logged step, the loss and seconds of all sessions, and an interrupted
evaluation.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt  # noqa: TC002  read when the checkpoint is
from typing_extensions import NotRequired, TypedDict

from utils.core.json_files import load_as
from utils.trainer.checkpoint_files import STATE, find_flaw
from utils.trainer.processes import Sums

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)

_ANOTHER = "it was cut off or edited; resume another checkpoint: --resume checkpoint-N"


class TrainingState(TypedDict):
    """The fields of trainer_state.json that this module and transformers read."""

    global_step: NonNegativeInt
    max_steps: int
    epoch: NotRequired[float | None]
    num_train_epochs: NotRequired[float]
    total_flos: NotRequired[float]
    log_history: NotRequired[list[dict[str, Any]]]
    best_metric: NotRequired[float | None]
    best_global_step: NotRequired[int | None]
    best_model_checkpoint: NotRequired[str | None]
    stateful_callbacks: NotRequired[dict[str, Any]]
    train_batch_size: NotRequired[int | None]
    num_input_tokens_seen: NotRequired[int]


class Totals(TypedDict):
    """Logged loss and seconds of several sessions."""

    loss: float
    seconds: float


class Session(TypedDict):
    """A process's state of the session that wrote a checkpoint."""

    num_processes: int
    loss_since_logged: float
    logged_step: int
    totals: NotRequired[Totals | None]
    sums: list[float]
    owes_evaluation: bool
    owes_save: bool


class Resume:
    """The checkpoint that a training resumes from, and what it records of earlier sessions."""

    def __init__(self, source: str | None = None) -> None:
        self.source = source or None
        """The checkpoint's folder; None: training starts anew."""
        self.had_ended = False
        """Whether the run had ended early when it was written."""
        self.totals: Totals | None = None
        """Totals of all earlier sessions; None: there are none, or the checkpoint does not record them."""
        self._session: Session | None = None
        self._started = 0.0
        self.first_step = 0
        """The step from which this session continued."""

    @property
    def knows_all_sessions(self) -> bool:
        """Whether loss and seconds of the whole run are known."""
        return self.source is None or self.totals is not None

    @property
    def seconds(self) -> float:
        """Seconds of this session and earlier ones, as far as known; a clock that is set back changes nothing."""
        now = time.monotonic()
        return (self.totals["seconds"] if self.totals is not None else 0.0) + now - (self._started or now)

    def read_state(self) -> TrainingState:
        """Read trainer_state.json.

        Raises:
            UserError: It was cut off or edited.
        """
        assert self.source is not None, "only a checkpoint has a state"
        return load_as(TrainingState, Path(self.source) / STATE, _ANOTHER)

    def read_session(self, trainer: Trainer, before: TrainingState) -> None:
        """Read the session state, and locate the best checkpoint if the run's folder has moved.

        The trainer's state is loaded and adapted to this run's length; `before` is the state in the file.

        Raises:
            UserError: A file was cut off or edited.
        """
        assert self.source is not None, "only a checkpoint has a session"
        args = trainer.args
        self.had_ended = trainer.control.should_training_stop and before["global_step"] < before["max_steps"]
        names = (_name_session(args), "session.json", "session_0.json")
        files = [Path(self.source) / name for name in names]
        found = [load_as(Session, each, _ANOTHER) for each in files if each.is_file()]
        self._session = found[0] if found and found[0].get("num_processes") == args.world_size else None
        self.totals = next((each["totals"] for each in found if each.get("totals")), None)
        if trainer.state.best_global_step is not None and args.save_strategy != "no":
            _locate_best(trainer, Path(args.output_dir) / f"checkpoint-{trainer.state.best_global_step}")

    def restore_session(self, trainer: Trainer) -> None:
        """Continue where the resumed checkpoint was written, and repeat an evaluation interrupted there."""
        self._started, self.first_step = time.monotonic(), trainer.state.global_step
        if self.totals is not None:
            trainer._total_loss_scalar = self.totals["loss"]
        session, self._session = self._session, None
        if session is None:
            return
        # transformers resets both, and would log the mean of this session's steps only
        trainer._tr_loss += session["loss_since_logged"]
        trainer._globalstep_last_logged = min(session["logged_step"], trainer.state.global_step)
        trainer.sums = Sums(session["sums"], trainer.args.device)
        if session["owes_evaluation"]:
            self._evaluate_now(trainer, session["owes_save"])

    def _evaluate_now(self, trainer: Trainer, owes_save: bool) -> None:
        trainer._load_rng_state(self.source)  # transformers does so later, before the first batch
        metrics = trainer._evaluate(None, None)
        is_best = trainer._determine_best_metric(metrics, None)
        trainer.control.should_save = trainer.control.should_evaluate = False
        trainer._save_checkpoint(trainer.model_wrapped, None)
        if is_best if trainer.args.save_strategy == "best" else owes_save:
            trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)

    def write_session(self, trainer: Trainer, folder: Path, owes_evaluation: bool) -> None:
        """Write this process's session state to a checkpoint's folder.

        `owes_evaluation`: this step, or the epoch that it ends, is still to be evaluated.
        """
        session: Session = {
            "num_processes": trainer.args.world_size,
            "loss_since_logged": float(getattr(trainer, "_tr_loss", 0.0)),
            "logged_step": getattr(trainer, "_globalstep_last_logged", 0),
            "totals": self._sum_sessions(trainer),
            "sums": trainer.sums.to_list(),
            "owes_evaluation": owes_evaluation,
            "owes_save": bool(trainer.control.should_evaluate and trainer.control.should_save),
        }
        (folder / _name_session(trainer.args)).write_text(json.dumps(session), encoding="utf-8")

    def _sum_sessions(self, trainer: Trainer) -> Totals | None:
        if not self.knows_all_sessions:
            return None
        return {"loss": float(getattr(trainer, "_total_loss_scalar", 0.0)), "seconds": self.seconds}


def _name_session(args: Any) -> str:
    """Name this process's file, as transformers names those of the random states."""
    several = f"_{args.process_index}" if args.world_size > 1 else ""
    return f"session{several}.json"


def _locate_best(trainer: Trainer, best: Path) -> None:
    flaw = find_flaw(best) if best.is_dir() else "it is gone"
    trainer.state.best_model_checkpoint = str(best) if flaw is None else None
    if flaw is not None and trainer.args.load_best_model_at_end:
        logger.warning("%s was the best, but %s: the best of the following ones is used", best.name, flaw)
        trainer.state.best_metric = trainer.state.best_global_step = None
