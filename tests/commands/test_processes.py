"""Two CPU processes train like one at the same global batch size: equal losses and metrics.

The evaluation has three rows for two processes with batches of two, so that one row is repeated in the last batch
and must count once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.commands.in_process import command

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5
GLOBAL_BATCH = 16
SHARED = [
    "model.dtype=float32", "training.max_steps=6", "training.logging_steps=1", "dataset.max_train_samples=96",
    "training.save_strategy=no", f"training.global_batch_size={GLOBAL_BATCH}", "training.per_device_eval_batch_size=2",
    "results.formats=[json]", "training.report_to=none",
]  # fmt: skip
TASKS = {
    "SEQ_CLS": ["configs/quickstart.yaml", "training.eval_strategy=no", "training.load_best_model_at_end=false",
                "dataset.max_eval_samples=3"],
    "CAUSAL_LM": ["configs/quickstart_sft.yaml", "dataset.validation_size=3", "evaluation.max_samples=3",
                  "generation.max_new_tokens=24"],
}  # fmt: skip
METHODS = {"lora": [], "qst": ["peft.method=qst"], "none": ["peft.method=none", "training.learning_rate=1e-3"]}
SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True)
class Launch:
    """How the processes are started."""

    command: tuple[str, ...]
    words: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


ALONE = Launch(())
TORCHRUN = Launch((sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"))
ACCELERATE = Launch(
    (str(SCRIPTS / "accelerate"), "launch", "--config_file", "configs/accelerate/ddp.yaml", "--main_process_port", "0"),
    environment={"ACCELERATE_USE_CPU": "1"},
)
ZERO3 = Launch(TORCHRUN.command, environment={"DS_ACCELERATOR": "cpu"})
ZERO2 = Launch(TORCHRUN.command, ("training.deepspeed=zero2",), {"DS_ACCELERATOR": "cpu"})
LAUNCHES = {"torchrun": TORCHRUN, "accelerate": ACCELERATE, "zero2": ZERO2}


@dataclass(frozen=True)
class Run:
    """Losses, record, output and folder of a finished run."""

    losses: list[float]
    record: dict[str, Any]
    said: str
    folder: Path


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="lora_ns_processes_")


def train(launch: Launch, words: list[str], batch: int, name: str, *options: str) -> Run:
    """Train in separate processes, or in this one."""
    folder = Path(_folder().name) / name
    words = [words[0], *options, *SHARED, *words[1:], *launch.words, f"training.per_device_train_batch_size={batch}"]
    words.append(f"training.output_dir={folder}")
    said = ""
    if launch is ALONE:
        command("train", "--config", *words)
    else:
        said = _launch(launch, words)
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    record = json.loads((folder / "results.json").read_text())
    return Run([log["loss"] for log in history if "loss" in log], record, said, folder)


def _launch(launch: Launch, words: list[str]) -> str:
    done = subprocess.run(
        [*launch.command, "train.py", "--config", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **launch.environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@cache
def train_alone(task: str, method: str) -> Run:
    """Train in one process, once for all launches compared with it."""
    return train(ALONE, [*TASKS[task], *METHODS[method]], 8, f"alone-{task}-{method}")


def compare(task: str, method: str, launch: str) -> float:
    """Train both ways and return the largest difference of a loss or metric."""
    together = train(LAUNCHES[launch], [*TASKS[task], *METHODS[method]], 8, f"{launch}-{task}-{method}")
    alone = train_alone(task, method)
    assert together.said.count("Result") == 1, "only the main process prints"
    assert "2 processes train, this one on cpu" in together.said
    assert len(together.losses) == len(alone.losses) == 6
    assert together.record["metrics"].keys() == alone.record["metrics"].keys()
    assert together.record["data"] == alone.record["data"]
    assert together.record["config_fingerprint"] == alone.record["config_fingerprint"] or launch == "zero2"
    assert together.record["batch"]["global_batch_size"] == alone.record["batch"]["global_batch_size"] == GLOBAL_BATCH
    assert [run.record["batch"]["gradient_accumulation_steps"] for run in (together, alone)] == [1, 2]
    peaks = together.record["memory"]["per_process"]["peak_rss_gb"]
    assert len(peaks) == 2
    assert together.record["memory"]["peak_rss_gb"] == max(peaks)
    losses = zip(together.losses, alone.losses, strict=True)
    metrics = ((value, alone.record["metrics"][name]) for name, value in together.record["metrics"].items())
    return max(abs(left - right) for left, right in [*losses, *metrics])


@pytest.mark.timeout(600)
def test_two_processes_train_as_one() -> None:
    """Fine-tuning rows differ in tokens: the loss is a mean over the tokens of all processes."""
    assert compare("CAUSAL_LM", "lora", "accelerate") < TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", TASKS)
def test_every_method_trains_as_one_by_every_launcher(task: str, method: str, launch: str) -> None:
    assert compare(task, method, launch) < TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_process_has_its_own_cache_of_states() -> None:
    """Two epochs: in the second one the backbone is skipped."""
    words = [*TASKS["SEQ_CLS"], "peft.method=qst", "peft.cache=auto", "dataset.max_train_samples=48"]
    together, alone = train(TORCHRUN, words, 8, "cache-two"), train(ALONE, words, 8, "cache-alone")
    assert together.losses == pytest.approx(alone.losses, abs=TOLERANCE)
    assert together.record["metrics"] == pytest.approx(alone.record["metrics"], abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("task", "method"), [("SEQ_CLS", "lora"), ("SEQ_CLS", "none"), ("SEQ_CLS", "qlora"), ("CAUSAL_LM", "lora")]
)
def test_sharded_weights_are_saved_completely(task: str, method: str, tmp_path: Path) -> None:
    """ZeRO-3 with every parameter sharded, however small: the saved model equals that of one process."""
    settings = json.loads((ROOT / "configs" / "deepspeed" / "zero3.json").read_text())
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (tmp_path / "zero3.json").write_text(json.dumps(settings))
    own = ["model.quantization={bits: 4, compute_dtype: float32}"] if method == "qlora" else METHODS[method]
    words = [*TASKS[task], *own, *(["evaluation.at_end=false"] if task == "CAUSAL_LM" else [])]
    launch = replace(ZERO3, words=(f"training.deepspeed={tmp_path / 'zero3.json'}",))
    together = train(launch, words, 8, f"zero3-{task}-{method}")
    alone = train(ALONE, words, 8, f"whole-{task}-{method}")
    assert together.losses == pytest.approx(alone.losses, abs=TOLERANCE)
    assert together.record["metrics"] == pytest.approx(alone.record["metrics"], abs=TOLERANCE)
    saved, expected = _read_weights(together.folder), _read_weights(alone.folder)
    assert saved.keys() == expected.keys()
    for name, tensor in saved.items():
        assert tensor.shape == expected[name].shape
        assert float((tensor - expected[name]).abs().max()) < 1e-3, name  # Adam's first steps amplify rounding


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_is_resumed_with_another_number_of_processes() -> None:
    words = [*TASKS["SEQ_CLS"], "training.lr_scheduler_type=constant", "training.warmup_steps=0"]
    saving = ["training.save_strategy=steps", "training.save_steps=3"]
    name = "changing"
    train(TORCHRUN, [*words, *saving, "training.max_steps=3"], 8, name)
    longer = train(ALONE, [*words, *saving], 8, name, "--resume")
    alone = train(ALONE, words, 8, "unchanging")
    assert len(longer.losses) == 6
    assert longer.losses == pytest.approx(alone.losses, abs=TOLERANCE)
    assert longer.record["metrics"] == pytest.approx(alone.record["metrics"], abs=TOLERANCE)


def test_a_mistake_is_reported_once() -> None:
    words = [*TORCHRUN.command, "train.py", "--config", "configs/quickstart.yaml", "peft.lora_r=0"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert done.stderr.count("peft.lora_r") == 1


def _read_weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    files = sorted((folder / "final_model").glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def test_a_launcher_that_starts_too_few_processes_is_refused():
    """`accelerate launch --cpu` starts one process whatever it is asked for, which the run reports first."""
    words = [str(SCRIPTS / "accelerate"), "launch", "--num_processes", "2", "--cpu", "train.py", "--config", "no.yaml"]
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode != 0
    assert "accelerate launch was asked for 2 processes and has started one" in done.stderr
    assert "torchrun --nproc_per_node 2 train.py" in done.stderr
