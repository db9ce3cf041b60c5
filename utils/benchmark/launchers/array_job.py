"""Common parts of schedulers: an array with one index per run, whose script calls benchmark.py for that run.

The script, and a file with the runs by index, are written before submission and never changed, so that a queued job
does not depend on later changes to the suite's file.
"""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from utils.benchmark.plan import Plan, PlannedRun
from utils.benchmark.state import find_status
from utils.config.section import Section
from utils.core import registry
from utils.core.errors import UserError
from utils.core.project import ROOT
from utils.core.replace_file import replace_text
from utils.results.json_file import read_json, write_json

if TYPE_CHECKING:
    from utils.cli.command_line import Answer

JOBS = "jobs"
"""Subfolder of the suite for scripts, submissions and logs of jobs."""
_SHORTEST_S = 300
WARNING_S = 120
"""Seconds before the end of its time when a job is told to save."""

logger = logging.getLogger(__name__)


def _require(pattern: str, wanted: str) -> BeforeValidator:
    """Accept only texts that fit, and whole numbers: a space or a line break would start another option or command."""

    def check(value: Any) -> str:
        is_text = isinstance(value, str | int) and not isinstance(value, bool)
        if not is_text or not re.fullmatch(pattern, str(value)):
            raise ValueError(f"{value!r} is not {wanted}")
        return str(value)

    return BeforeValidator(check)


def _require_time(value: str) -> str:
    if read_seconds(value) < _SHORTEST_S:
        raise ValueError(f"{value!r} is too short: a run saves {WARNING_S} s before its end; use 0:05:00 or more")
    return value


def read_seconds(time: str) -> int:
    """Convert [D-]HH:MM:SS to seconds."""
    days, _, clock = time.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


_TIME = _require(r"(\d+-)?\d+:[0-5]\d:[0-5]\d", "a time such as 12:00:00")
_NAME = _require(r"[A-Za-z_]\w*", "a variable's name")
_TEXT = _require(r"(?s).*", "text; write it in quotes")
_LINE = _require(r"-.*", "a directive that starts with -, without #SBATCH or #PBS")
Word = Annotated[str, _require(r"\S+", "one word without spaces")]
"""Name of an account, a queue or a partition."""


class ArraySection(Section):
    """Resources requested from a scheduler for each run."""

    account: Word | None = None
    """Account to charge."""
    time: Annotated[str, _TIME, AfterValidator(_require_time)] | None = None
    """Wall time of a run, HH:MM:SS; shortly before its end the run saves and is queued again; null: the queue's."""
    nodes: int = Field(1, ge=1)
    """Machines per run."""
    gpus: int = Field(0, ge=0)
    """GPUs per machine of a run, each with its own process."""
    cpus: int | None = Field(None, ge=1)
    """Cores per process; null: the queue's default."""
    memory: Annotated[str, _require(r"\d+[KMGT]B?", "an amount such as 48G")] | None = None
    """Memory per machine of a run, such as 48G; null: the queue's default."""
    at_once: int | None = Field(None, ge=1)
    """Maximum runs at the same time; null: unlimited."""
    modules: list[str] = []
    """Environment modules that each job loads."""
    environment: dict[Annotated[str, _NAME], Annotated[str, _TEXT]] = {}
    """Environment variables that each job sets."""
    setup: list[str] = []
    """Shell lines before the run, such as `source /scratch/env/bin/activate`."""
    lines: list[Annotated[str, _LINE]] = []
    """Further directives, without #SBATCH or #PBS: `--constraint=a100`."""

    @property
    def processes(self) -> int:
        """Number of processes per machine of a run."""
        return max(self.gpus, 1)


@dataclass(frozen=True)
class Scheduler:
    """The commands and directives of a scheduler."""

    index: str
    """Shell expression of the array's index, from 1."""
    write_directives: Callable[[Any, str, Path], list[str]]
    """Writes directives from the section, the suite's name and the folder of logs."""
    write_launch: Callable[[Any], list[str]]
    """Writes shell lines that set `launch`, the prefix that starts a run on several processes."""
    start: Callable[[Any], str]
    """Prefix of the benchmark.py command."""
    requeue: str
    """Shell line that queues a job again."""
    build_submission: Callable[[Any, Path, int], list[str]]
    """Builds the command that submits the script for a number of runs."""
    list_queue: Callable[[Sequence[str]], dict[str, str]]
    """Returns the states of these jobs' waiting or running tasks, by `job[index]`."""


def load_scheduler(plan: Plan) -> Scheduler | None:
    """Load the suite's scheduler; None for the local launcher."""
    found: Scheduler | None = registry.load("benchmark.launchers", plan.suite.launcher.model_dump()["name"]).SCHEDULER
    return found


def launch_array(plan: Plan, retry: int, words: list[str], scheduler: Scheduler) -> Answer:
    """Write the script and submit the runs that are neither done nor queued; `words` is this command line.

    Raises:
        UserError: The scheduler's command is missing, or rejects the script.
    """
    queued = find_jobs(plan)
    runs = [run for run in plan.shard if run.name not in queued and _is_missing(run, retry)]
    for name, job in queued.items():
        logger.info("%s: is in the queue as %s", name, job)
    if not runs:
        logger.info("nothing to submit: none of %d runs is missing; --report writes the table", len(plan.shard))
        return {"status": "submitted", "job": None, "runs": [], "output_dir": str(plan.output)}
    script = _next_script(plan.output)
    script.parent.mkdir(parents=True, exist_ok=True)
    for path, text in (
        (script.with_suffix(".txt"), "".join(f"{run.name}\n" for run in runs)),
        (script, _write(plan, words, scheduler, script)),
    ):
        replace_text(path, text)
    answered = call(scheduler.build_submission(plan.suite.launcher, script, len(runs)))
    job = re.split(r"\D", answered.strip())[0]  # 7, 7;cluster, 7[].server
    noted = {"launcher": plan.suite.launcher.model_dump()["name"], "job": job, "runs": [run.name for run in runs]}
    write_json(script.with_suffix(".json"), noted)
    logger.info("submitted %d runs as job %s; script: %s", len(runs), job, script)
    logger.info("--status shows their progress, --report writes the table of finished runs")
    return {
        "status": "submitted",
        "job": job,
        "script": str(script),
        "output_dir": str(plan.output),
        "runs": [run.name for run in runs],
    }


def write_script(plan: Plan, words: list[str], scheduler: Scheduler) -> str:
    """Return the script that would be submitted, with the command that submits it."""
    script = _next_script(plan.output)
    command = scheduler.build_submission(plan.suite.launcher, script, len(plan.shard))
    return f"# {shlex.join(command)}\n{_write(plan, words, scheduler, script)}"


def find_jobs(plan: Plan) -> dict[str, str]:
    """Return job and state of the waiting or running runs, by name, from all schedulers they were submitted to.

    Raises:
        UserError: A scheduler that was given some of them does not answer.
    """
    noted = [note for path in sorted((plan.output / JOBS).glob("*.json")) if (note := read_json(path))]
    found: dict[str, str] = {}
    for launcher in dict.fromkeys(each["launcher"] for each in noted):
        jobs = {each["job"]: each["runs"] for each in noted if each["launcher"] == launcher}
        states = registry.load("benchmark.launchers", launcher).SCHEDULER.list_queue(list(jobs))
        for job, names in jobs.items():
            keys = {name: f"{job}[{index}]" for index, name in enumerate(names, start=1)}
            found |= {name: f"{key} ({states[key]})" for name, key in keys.items() if key in states}
    return found


def call(command: Sequence[str]) -> str:
    """Return the output of a scheduler's command.

    Raises:
        UserError: The command is missing, or fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  the scheduler's own
    except FileNotFoundError:
        message = (
            f"{command[0]} is not on this machine; submit where the scheduler is, or show the script with --dry-run"
        )
        raise UserError(message) from None
    if done.returncode:
        raise UserError(f"{shlex.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _is_missing(run: PlannedRun, retry: int) -> bool:
    status = find_status(run)
    if status in ("failed", "timed out") and not retry:
        logger.info("%s: %s before; --retry submits it again", run.name, status)
        return False
    return status != "done"


def _next_script(output: Path) -> Path:
    taken = [int(path.stem) for path in (output / JOBS).glob("*.sh") if path.stem.isdecimal()]
    return (output / JOBS / f"{max(taken, default=0) + 1}.sh").resolve()


def _write(plan: Plan, words: list[str], scheduler: Scheduler, script: Path) -> str:
    """Write the script of one index: it forwards signals, and queues a run that has saved itself again."""
    section = plan.suite.launcher
    assert isinstance(section, ArraySection), "the launcher's own"
    command = shlex.join([sys.executable, str(ROOT / "benchmark.py"), *words])
    launch = scheduler.write_launch(section) if section.nodes * section.processes > 1 else []
    single = '--single "$run"' + (' --launch "$launch"' if launch else "")
    lines = [
        "#!/usr/bin/env bash",
        *scheduler.write_directives(section, plan.suite.section.suite, script.parent),
        "set -euo pipefail",
        f"cd {shlex.quote(str(Path.cwd()))}",
        *(f"module load {shlex.quote(module)}" for module in section.modules),
        *(f"export {name}={shlex.quote(value)}" for name, value in section.environment.items()),
        *section.setup,
        f"script={shlex.quote(str(script))}",
        f'run="${{RUN:-$(sed -n "{scheduler.index}p" {shlex.quote(str(script.with_suffix(".txt")))})}}"',
        *launch,
        f"{scheduler.start(section)}{command} {single} &",
        "pid=$!",
        "trap 'kill -TERM \"$pid\"' TERM USR1",
        'while wait "$pid"; [ $? -gt 128 ] && kill -0 "$pid" 2> /dev/null; do :; done  # a signal ends a wait',
        "code=0",
        'wait "$pid" || code=$?',
        f'if [ "$code" -eq 75 ]; then {scheduler.requeue}; fi  # saved, to be continued',
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"
