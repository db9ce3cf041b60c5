"""A run that is stopped and resumed comes to the same end: what transformers does not keep, and where to stop.

Kept besides: loss and token counts since the last logged step, by process; loss and seconds of all sessions; and the
evaluation that was cut off.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt  # noqa: TC002  read when the checkpoint is
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import NotRequired, TypedDict

from utils.core.json_files import load_as
from utils.core.signals import Interrupted, interruption_requested, raise_if_interrupted
from utils.generation.model_state import keep_random_state
from utils.trainer.checkpoint_files import STATE, find_flaw
from utils.trainer.checkpoint_reading import explain_checkpoint, require_like
from utils.trainer.processes import announce_processes

if TYPE_CHECKING:
    from torch.utils.data import Sampler

logger = logging.getLogger(__name__)

_ANOTHER = "it was cut off or edited; resume another checkpoint: --resume checkpoint-N"


class _State(TypedDict):
    """What is read of trainer_state.json, here and by transformers."""

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


class _Totals(TypedDict):
    loss: float
    seconds: float


class Session(TypedDict):
    """What a checkpoint keeps of the session that wrote it, by process."""

    num_processes: int
    loss_since_logged: float
    logged_step: int
    totals: NotRequired[_Totals | None]
    sums: list[float]
    owes_evaluation: bool
    owes_save: bool


class ExactResume:
    """What our trainers share: stopping at a step's end, and going on as if nothing had happened."""

    args: Any
    state: TrainerState
    control: Any
    accelerator: Any
    callback_handler: Any
    model_wrapped: Any
    _tr_loss: Any
    lr_scheduler: Any
    _initial_global_step: int
    _total_loss_scalar: float
    _saved: tuple[int, int] | None

    _order: Any = None
    """The sampler of training rows."""
    _source: str | None = None
    """The checkpoint that is resumed."""
    _session: Session | None = None
    """What its session file says."""
    _was_stopped: bool = False
    """It was written when the run had ended early."""
    _totals: _Totals | None = None
    """Loss and seconds of all sessions before this one; None: the checkpoint does not say."""
    _started: float = 0.0
    """When this session began to train."""
    _epoch_ended: bool = False
    _is_at_boundary: bool = False
    """All that was due at this step is done."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(_Continuing(self))  # type: ignore[attr-defined]  # the Trainer's

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train, from a checkpoint where one is given."""
        announce_processes(self.args)
        self._source, self._totals = resume_from_checkpoint or None, None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)  # type: ignore[misc]  # a mixin

    def export_sums(self) -> list[float]:
        """Give sums over the steps since the last logged one; a trainer that has some says which."""
        return []

    def import_sums(self, sums: list[float]) -> None:
        """Take up sums of an earlier session."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler[int] | None:
        self._order = super()._get_train_sampler(*args, **kwargs)  # type: ignore[misc]  # a mixin
        order: Sampler[int] | None = self._order
        return order

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        if self._source is None:
            return super()._init_training_state(*args, **kwargs)  # type: ignore[misc]  # a mixin
        before = load_as(_State, Path(self._source) / STATE, _ANOTHER)
        with explain_checkpoint(self._source):
            found = super()._init_training_state(*args, **kwargs)  # type: ignore[misc]  # a mixin
        self._read_session(Path(self._source), before)
        return found

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with explain_checkpoint(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]  # a mixin

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with explain_checkpoint(checkpoint):
            super()._load_rng_state(checkpoint)  # type: ignore[misc]  # a mixin

    def _read_session(self, source: Path, before: _State) -> None:
        """Read what the checkpoint keeps besides; find the best checkpoint again where the run's folder has moved."""
        self._was_stopped = self.control.should_training_stop and before["global_step"] < before["max_steps"]
        files = [source / name for name in (self._session_name(), "session.json", "session_0.json")]
        found = [load_as(Session, each, _ANOTHER) for each in files if each.is_file()]
        self._session = found[0] if found and found[0].get("num_processes") == self.args.world_size else None
        self._totals = next((each["totals"] for each in found if each.get("totals")), None)
        if self.state.best_global_step is not None and self.args.save_strategy != "no":
            self._find_best_again(Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}")

    def _find_best_again(self, best: Path) -> None:
        flaw = find_flaw(best) if best.is_dir() else "it is gone"
        self.state.best_model_checkpoint = str(best) if flaw is None else None
        if flaw is not None and self.args.load_best_model_at_end:
            logger.warning("%s was the best, but %s: the best of what follows is taken", best.name, flaw)
            self.state.best_metric = self.state.best_global_step = None

    def _session_name(self) -> str:
        """Name this process's file, as transformers names those of the random states."""
        several = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return f"session{several}.json"

    def _write_session(self, partial: Path) -> None:
        trainer: Any = self
        owes = self.control.should_evaluate or self._evaluates_after()
        session = {
            "num_processes": self.args.world_size,
            "loss_since_logged": float(self._tr_loss) if hasattr(self, "_tr_loss") else 0.0,
            "logged_step": getattr(trainer, "_globalstep_last_logged", 0),
            "totals": self._sum_sessions(),
            "sums": self.export_sums(),
            "owes_evaluation": bool(owes),
            "owes_save": bool(self.control.should_evaluate and self.control.should_save),
        }
        (partial / self._session_name()).write_text(json.dumps(session), encoding="utf-8")

    @property
    def knows_all_sessions(self) -> bool:
        """Whether loss and seconds are those of the whole run; a checkpoint of another tool does not say what was."""
        return self._source is None or self._totals is not None

    def _sum_sessions(self) -> _Totals | None:
        """Give the logged loss and the seconds of this session and all before it; None: those before are not known."""
        if not self.knows_all_sessions:
            return None
        loss = float(getattr(self, "_total_loss_scalar", 0.0))
        return {"loss": loss, "seconds": self._seconds_before + time.time() - (self._started or time.time())}

    @property
    def _seconds_before(self) -> float:
        return float(self._totals["seconds"]) if self._totals is not None else 0.0

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        """End the training; transformers counts this session's steps and seconds alone, and here all count."""
        if self._totals is not None:
            self._initial_global_step = 0
        return super()._finalize_training(trial, num_train_samples, start_time - self._seconds_before)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both, and let the learning rates follow the schedule of this run's length from where it stands.

        The rates that were saved are those of the run as long as it was planned then: 0 at a finished schedule's end.
        """
        fresh = self._describe_states()
        with explain_checkpoint(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]  # a mixin
        if checkpoint is not None:
            require_like(self._describe_states(), fresh, checkpoint)
        schedule = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)  # within DeepSpeed's wrapper
        if checkpoint is None or not isinstance(schedule, LambdaLR) or schedule.last_epoch < 1:
            return  # a schedule that goes by the loss has no length
        before = schedule.get_last_lr()
        schedule.last_epoch -= 1
        schedule.step()
        if (after := schedule.get_last_lr()) != before:
            said = "the learning rate continues at %.3g (step %d of the %d-step schedule); the checkpoint ended at %.3g"
            logger.info(said, after[0], schedule.last_epoch, self.state.max_steps, before[0])

    def _describe_states(self) -> dict[str, Any]:
        """Give what optimizer and scheduler are made of, apart from the large tensors."""
        optimizer: Any = self.optimizer  # type: ignore[attr-defined]  # the Trainer's
        groups = getattr(optimizer, "param_groups", [])
        bare = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        schedule = self.lr_scheduler.state_dict() if hasattr(self.lr_scheduler, "state_dict") else {}
        return {"optimizer": bare, "scheduler": schedule}

    def take_up_session(self) -> None:
        """Go on where the resumed checkpoint was written; an evaluation that was cut off there is made up for."""
        self._started = time.time()
        if self._source is None:
            return
        if self._totals is not None:
            self._total_loss_scalar = self._totals["loss"]
        session, self._session = self._session, None
        if session is None:
            return
        trainer: Any = self
        self._tr_loss += session["loss_since_logged"]
        trainer._globalstep_last_logged = min(session["logged_step"], self.state.global_step)
        self.import_sums(session["sums"])
        if not session["owes_evaluation"]:
            return
        trainer._load_rng_state(self._source)
        metrics = trainer._evaluate(None, None)
        is_best = trainer._determine_best_metric(metrics, None)
        self.control.should_save = self.control.should_evaluate = False
        trainer._save_checkpoint(self.model_wrapped, None)
        if is_best if self.args.save_strategy == "best" else session["owes_save"]:
            self.callback_handler.on_save(self.args, self.state, self.control)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train an epoch, unless the run is at its end already: transformers would train one step more.

        The order of rows is set here: transformers does not reach it through the batches that are skipped and those
        of several processes.
        """
        ended = self._was_stopped or self.control.should_training_stop
        if ended or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        if hasattr(self._order, "set_epoch"):
            self._order.set_epoch(kwargs["epoch"])
        try:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]  # a mixin
        except Interrupted:
            if self._saved != (self.state.global_step, len(self.state.log_history)) and not self._is_only_written():
                self._save_checkpoint(self.model_wrapped, None)  # type: ignore[attr-defined]
            raise

    def _is_only_written(self) -> bool:
        """Tell whether what was cut off came after the step was saved: answers, which lie row by row on the disk."""
        saved_now = self._saved is not None and self._saved[0] == self.state.global_step
        return saved_now and not self.control.should_evaluate and not self._is_at_boundary

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate, save; then stop, if that was asked for. Behind an epoch's last step comes the epoch's end."""
        self._is_at_boundary = False
        super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]  # a mixin
        if not self._ends_epoch() and self._agree_to_stop():
            self._is_at_boundary = True
            raise_if_interrupted()

    def _ends_epoch(self) -> bool:
        """Tell whether the step that was made is its epoch's last, and the epoch's end is still to come."""
        ends = self.control.should_training_stop or self.control.should_epoch_stop
        return not self._epoch_ended and bool(ends or float(self.state.epoch or 0.5).is_integer())

    def _evaluates_after(self) -> bool:
        """Tell whether a checkpoint is written by a step at whose epoch's end there will be an evaluation."""
        return self.args.eval_strategy == "epoch" and self._ends_epoch()

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate, without drawing from the random numbers of training: it may be cut off, and made up for later."""
        with keep_random_state():
            return super()._evaluate(*args, **kwargs)  # type: ignore[misc]  # a mixin

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch, unless the run was asked to stop."""
        if self._agree_to_stop():
            raise_if_interrupted()
        return super().prediction_step(*args, **kwargs)  # type: ignore[misc]  # a mixin

    def _agree_to_stop(self) -> bool:
        """Tell whether any process was asked to stop; all processes come here together."""
        if self.args.world_size == 1:
            return interruption_requested()
        import torch
        import torch.distributed as dist

        flag = torch.tensor(int(interruption_requested()), device=self.args.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())


class _Continuing(TrainerCallback):
    """Tells the trainer where it is."""

    def __init__(self, trainer: ExactResume) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up what the resumed checkpoint left."""
        self._trainer.take_up_session()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note that an epoch is being trained."""
        self._trainer._epoch_ended = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note that it has ended."""
        self._trainer._epoch_ended = True
