"""Scripts for Slurm and PBS: requested resources, submitted jobs, the queue's answers. A real Slurm: test_slurm.py."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.attempt import _split_launch, list_slots
from utils.benchmark.launchers.array_job import find_jobs, launch_array, load_scheduler, write_script
from utils.core.errors import ConfigError, UserError

TASKS = "tasks: {a: {}, b: {}}\nseeds: [1, 2]\n"
ASKED = """launcher:
  name: NAME
  account: lab
  time: 1-12:30:00
  nodes: 2
  gpus: 4
  cpus: 8
  memory: 48G
  at_once: 3
  modules: [cuda/12.4]
  environment: {HF_HOME: /scratch/my cache}
  setup: [source /scratch/env/bin/activate]
"""
SLURM = """#SBATCH --job-name=s
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --time=1-12:30:00
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=4
#SBATCH --mem=48G
#SBATCH --signal=B:TERM@120
#SBATCH --output=JOBS/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --constraint=a100
"""
PBS = """#PBS -N s
#PBS -l select=2:ncpus=32:mpiprocs=4:ngpus=4:mem=48gb
#PBS -l place=scatter
#PBS -l walltime=36:30:00
#PBS -A lab
#PBS -q gpu
#PBS -r y
#PBS -j oe
#PBS -o JOBS/
"""
OWN = {"slurm": "  partition: gpu\n  lines: [--constraint=a100]\n", "pbs": "  queue: gpu\n"}


@pytest.fixture
def planned(plan_of: Callable[..., Any]) -> Callable[[str], Any]:
    """Return a function that plans a suite for a scheduler."""
    return lambda name: plan_of(TASKS + ASKED.replace("NAME", name) + OWN[name])


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts fake scheduler programs on the PATH, given what they print."""

    def put(**printed: str) -> None:
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        for name, text in printed.items():
            (folder / name).write_text(f"#!/bin/sh\necho \"$@\" >> {folder}/said\nprintf '{text}'\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return put


@pytest.mark.parametrize(("name", "directives"), [("slurm", SLURM), ("pbs", PBS)])
def test_the_script_requests_the_suites_resources(name: str, directives: str, planned: Callable[[str], Any]) -> None:
    plan = planned(name)
    text = write_script(plan, ["--config", "my suite.yaml"], load_scheduler(plan))
    jobs = plan.output.resolve() / "jobs"
    assert directives.replace("JOBS", str(jobs)) in text
    array = {"slurm": "# sbatch --parsable --array=1-4%3", "pbs": "# qsub -J 1-4%3"}[name]
    assert text.startswith(f"{array} {jobs}/1.sh\n#!/usr/bin/env bash\n")
    prelude = "module load cuda/12.4\nexport HF_HOME='/scratch/my cache'\nsource /scratch/env/bin/activate\n"
    assert f"set -euo pipefail\ncd {Path.cwd()}\n{prelude}" in text
    assert 'benchmark.py --config \'my suite.yaml\' --single "$run" --launch "$launch" &\n' in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert not jobs.exists(), "a plan writes nothing"


@pytest.mark.parametrize(
    ("name", "variables", "numbers"),
    [
        ("slurm", {"SLURM_JOB_ID": "61234", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "8"}, "SLURM_PROCID"),
        ("pbs", {"PBS_JOBID": "61234[2].head", "PBS_NODEFILE": "nodes"}, "OMPI_COMM_WORLD_RANK"),
    ],
)
def test_processes_rendezvous_by_the_schedulers_variables(
    name: str, variables: dict[str, str], numbers: str, planned: Callable[[str], Any], tmp_path: Path
) -> None:
    (tmp_path / "nodes").write_text("n1\nn1\nn2\n")
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf 'n1\\nn2\\n'\n")
    (tmp_path / "scontrol").chmod(0o755)
    plan = planned(name)
    scheduler = load_scheduler(plan)
    assert scheduler is not None
    script = "\n".join(["set -eu", *scheduler.write_launch(plan.suite.launcher), 'printf %s "$launch"'])
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **variables}
    launch = subprocess.run(
        ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "MASTER_ADDR=n1" in launch
    assert "MASTER_PORT=21234" in launch
    words = _split_launch(type("Run", (), {"launch": launch})())
    assert words[1] == {"slurm": "srun", "pbs": "mpirun"}[name]
    task = [*words[words.index("bash") :], "-c", "import os; print(os.environ['RANK'])"]
    done = subprocess.run(task, env={**environment, numbers: "5"}, capture_output=True, text=True, check=True)
    assert done.stdout == "5\n", "bash becomes this interpreter, with the process's number"


def test_only_missing_runs_are_submitted(
    planned: Callable[[str], Any], programs: Callable[..., None], tmp_path: Path
) -> None:
    plan = planned("slurm")
    scheduler = load_scheduler(plan)
    assert scheduler is not None
    programs(sbatch="7\\n", squeue="7 1 RUNNING\\n7 3 PENDING\\n6 1 RUNNING\\n")
    answer = launch_array(plan, 0, ["--config", "s.yaml"], scheduler)
    names = [run.name for run in plan.runs]
    assert answer["runs"] == names
    assert Path(answer["script"]).with_suffix(".txt").read_text().split() == names
    assert find_jobs(plan) == {names[0]: "7[1] (RUNNING)", names[2]: "7[3] (PENDING)"}
    again = launch_array(plan, 0, ["--config", "s.yaml"], scheduler)
    assert again["runs"] == [names[1], names[3]]
    noted = json.loads((plan.output / "jobs" / "2.json").read_text())
    assert noted == {"launcher": "slurm", "job": "7", "runs": [names[1], names[3]]}
    assert "--array=1-2%3" in (tmp_path / "programs" / "said").read_text()


def test_qstat_output_is_parsed(planned: Callable[[str], Any], programs: Callable[..., None]) -> None:
    plan = planned("pbs")
    scheduler = load_scheduler(plan)
    assert scheduler is not None
    heads = "Job id            Name             User              Time Use S Queue\\n"
    lines = (
        "12[].head s me 0 B gpu\\n12[1].head s me 00:01:07 R gpu\\n12[2].head s me 0 Q gpu\\n12[3].head s me 0 X gpu\\n"
    )
    programs(qsub="12[].head\\n", qstat=heads + lines + "15.head s me 0 H gpu\\n")
    answer = launch_array(plan, 0, [], scheduler)
    assert answer["job"] == "12"
    (plan.output / "jobs" / "1.15.json").write_text(json.dumps({"launcher": "pbs", "job": "15", "runs": ["b-lora-s2"]}))
    assert find_jobs(plan) == {"a-lora-s1": "12[1] (R)", "a-lora-s2": "12[2] (Q)", "b-lora-s2": "15[1] (H)"}


def test_a_missing_scheduler_is_reported(planned: Callable[[str], Any], programs: Callable[..., None]) -> None:
    plan = planned("slurm")
    scheduler = load_scheduler(plan)
    assert scheduler is not None
    programs()
    with pytest.raises(UserError, match="sbatch is not on this machine; submit where the scheduler is"):
        launch_array(plan, 0, [], scheduler)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("launcher: {name: slrum}", "launcher.name: no launcher called slrum; did you mean slurm?"),
        ("launcher: {name: slurm, queue: gpu}", "launcher.queue: unknown key"),
        ("launcher: {name: pbs, time: 12 hours}", "launcher.time: "),
        ("launcher: {name: slurm, nodes: 0}", "launcher.nodes: 0 is not allowed"),
    ],
)
def test_mistakes_in_the_section(text: str, sentence: str, plan_of: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(f"{TASKS}{text}\n")
    assert sentence in str(caught.value)
    assert "s.yaml:" in str(caught.value)


def test_a_run_on_several_processes_gets_all_gpus(plan_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan_of(TASKS + "launch: accelerate launch --num_processes 2\n").runs[0]
    assert _split_launch(run) == ["-m", "accelerate.commands.launch", "--num_processes", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [slot.gpu for slot in list_slots(None, shares=False)] == [None]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('account: "lab\\ntouch x"', "launcher.account: 'lab\\ntouch x' is not one word without spaces"),
        ("queue: gpu debug", "launcher.queue: 'gpu debug' is not one word"),
        ('environment: {"A B;touch x": 1}', "launcher.environment: 'A B;touch x' is not a variable's name"),
        ("environment: {A: [1]}", "launcher.environment: [1] is not text; write it in quotes"),
        ('lines: ["-l x\\ntouch x"]', "launcher.lines: '-l x\\ntouch x' is not a directive"),
        ('lines: ["#PBS -l x"]', "launcher.lines: '#PBS -l x' is not a directive that starts with -"),
        ("time: 3h", "launcher.time: '3h' is not a time such as 12:00:00"),
        ("time: 0:01:00", "launcher.time: '0:01:00' is too short"),
        ("memory: 48", "launcher.memory: 48 is not an amount such as 48G"),
    ],
)
def test_values_cannot_inject_lines_into_the_script(plan_of: Callable[..., Any], line: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(f"{TASKS}launcher:\n  name: pbs\n  {line}\n")
    assert sentence in str(caught.value)


def test_numbers_are_accepted_as_text(plan_of: Callable[..., Any]) -> None:
    plan = plan_of(TASKS + "launcher: {name: slurm, account: 123, environment: {OMP_NUM_THREADS: 4}}\n")
    script = write_script(plan, [], load_scheduler(plan))
    assert "#SBATCH --account=123\n" in script
    assert "export OMP_NUM_THREADS=4\n" in script
