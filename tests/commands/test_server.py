"""Runs whose answers a server generates, and a real vLLM used by every command."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.commands.in_process import command
from tests.model_server import BASE, serve

ROOT = Path(__file__).parents[2]
VLLM = os.environ.get("LORA_NS_VLLM_PYTHON", "")
SHORT = ["--config", ROOT / "configs/quickstart_sft.yaml", "training.max_steps=2", "dataset.max_train_samples=64",
         "evaluation.steps=2", "evaluation.max_samples=3", "generation.max_new_tokens=4", "results.formats=[json]",
         "evaluation.sets=[{name: gsm8k, label: test}]"]  # fmt: skip


def _read(file: Path) -> list[dict[str, Any]]:
    return [{**json.loads(line), "seconds": 0} for line in file.read_text("utf-8").splitlines()]


def test_a_server_gets_the_current_adapter(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with serve() as server:
        command("train", *SHORT, f"training.output_dir={run}", f"evaluation.server={server.url}")
        assert not server.adapters, "uploaded adapters are removed again"
    assert {body["model"] for body in server.bodies if "prompt" in body} - {"base"}
    assert _read(run / "eval_step_2/base_test_predictions.jsonl") == _read(run / "eval_test/predictions.jsonl")
    command("evaluate_model", "--run", run, "--output_dir", tmp_path / "here")
    assert _read(tmp_path / "here/test/predictions.jsonl") == _read(run / "eval_test/predictions.jsonl")


LEARNT = ["--config", ROOT / "configs/quickstart_grpo.yaml", "training.max_steps=2", "dataset.max_train_samples=16",
          "training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=1", "grpo.num_generations=4",
          "grpo.max_completion_length=20", "grpo.rewards={rouge_l: 1}", "grpo.temperature=1", "results.formats=[json]",
          "evaluation.at_end=false", "evaluation.steps=null", "evaluation.at_start=false", "training.logging_steps=1",
          "training.save_strategy=steps", "training.save_steps=1"]  # fmt: skip


def test_a_server_generates_grpo_answers_with_the_steps_adapter(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = tmp_path / "run"
    with serve() as server:
        command("train", *LEARNT, f"training.output_dir={run}", f"grpo.server={server.url}")
        assert not server.adapters, "uploaded adapters are removed again"
    asked = [body for body in server.bodies if body.get("seed") is not None]
    assert len(asked) == 16 == len({body["seed"] for body in asked})
    assert all(body["top_p"] == 1 and body["top_k"] == -1 and body["repetition_penalty"] == 1 for body in asked)
    start, after_one = server.handed
    saved = load_file(run / "checkpoint-1/adapter_model.safetensors")
    assert all(after_one[name].equal(weight) for name, weight in saved.items()), "not that of an earlier step"
    assert not all(start[name].equal(weight) for name, weight in saved.items()), "the adapter was trained"
    logs = json.loads((run / "trainer_state.json").read_text("utf-8"))["log_history"]
    assert any(log.get("completions/mean_length", 0) > 1 for log in logs)


def test_a_server_without_token_ids_is_refused_for_grpo(tmp_path: Path) -> None:
    from utils.core.errors import ConfigError, UserError

    with serve(gives_ids=False) as server, pytest.raises(UserError, match="does not return the token ids"):
        command("train", *LEARNT, f"training.output_dir={tmp_path}/run", f"grpo.server={server.url}")
    with pytest.raises(ConfigError, match=r"grpo\.server: a server cannot load what lora saves: not with use_dora"):
        command("train", *LEARNT, f"training.output_dir={tmp_path}/other", "grpo.server=http://127.0.0.1:9/v1",
                "peft.use_dora=true", "peft.adapter_path=null")  # fmt: skip


def test_rejects_adapters_that_servers_cannot_load_before_sending(tmp_path: Path) -> None:
    from utils.core.errors import ConfigError

    with pytest.raises(ConfigError, match=r"evaluation\.server: a server cannot load what qst saves"):
        command("train", *SHORT, f"training.output_dir={tmp_path}/run", "evaluation.server=http://127.0.0.1:9/v1",
                "peft.method=qst", "peft.target_modules=null")  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trained LoRA run of the embedded base."""
    run = tmp_path_factory.mktemp("served") / "run"
    command("train", *SHORT[:2], f"training.output_dir={run}", "training.num_train_epochs=1", "results.formats=[json]")
    return run


class Vllm:
    """A vLLM process serving a run's adapter, which can be killed and restarted."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.url = "http://127.0.0.1:8139/v1"

    def start(self) -> None:
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
        self.process = subprocess.Popen(
            [VLLM, "-m", "vllm.entrypoints.openai.api_server", "--model", str(BASE), "--served-model-name", "base",
             "--host", "127.0.0.1", "--port", "8139", "--dtype", "float32", "--enforce-eager", "--enable-lora",
             "--max-lora-rank", "16", "--lora-modules", f"tuned={self.run}/final_model"],
            cwd="/tmp", env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 240
        while True:
            assert self.process.poll() is None, "vLLM ended"
            assert time.monotonic() < deadline
            try:
                with urlopen(f"{self.url}/models", timeout=5):
                    return
            except (URLError, TimeoutError):
                time.sleep(1)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def vllm(trained: Path) -> Iterator[Vllm]:
    if not VLLM:
        pytest.skip("LORA_NS_VLLM_PYTHON names no Python of an environment with vLLM (docs/serving.md)")
    server = Vllm(trained)
    server.start()
    yield server
    server.kill()


def compute_gap(run: Path, prompt: str, first: str, second: str) -> float:
    """Return the gap between the run's float64 logits for the first token in which two answers differ.

    It is infinite unless the two tokens are the two most probable ones.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    start, one, other = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, prompt + first, prompt + second)
    )
    place = next(place for place, (a, b) in enumerate(zip_longest(one, other)) if a != b)
    assert place >= len(start)
    tokens = [(ids[place : place + 1] or [tokenizer.eos_token_id])[0] for ids in (one, other)]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), run / "final_model").double()
    with torch.no_grad():
        logits = model(torch.tensor([one[:place]])).logits[0, -1]
    assert logits.dtype == torch.float64
    best, second_best = logits.topk(2).indices.tolist()
    return float(logits[best] - logits[second_best]) if {best, second_best} == set(tokens) else math.inf


def test_a_near_tie_is_a_small_gap_between_the_top_two_tokens(trained: Path) -> None:
    prompt = "<bos>Question: Sam has 30 keys. He drops 28 of them. How many keys does Sam have now?\nAnswer:"
    first = _read(trained / "eval_test/predictions.jsonl")[0]["prediction"]
    written, name, _ = first.partition(first.split("Now ")[1].split()[0])
    others = {"Kate", "Mia", "Lucy", "Max", "Tom", "Ann", "Sam", "Zoe", "zebra"} - {name}
    gaps = {other: compute_gap(trained, prompt, written + name, written + other) for other in others}
    second_best = [gap for gap in gaps.values() if gap < math.inf]
    assert len(second_best) == 1
    assert 1e-4 < second_best[0] < 5, "not a tie"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_vllm_generates_the_same_as_transformers(vllm: Vllm, trained: Path, tmp_path: Path) -> None:
    words = ["--server", vllm.url, "--served_model"]
    command("evaluate_model", "--run", trained, *words, "tuned", "--output_dir", tmp_path / "there")
    command("evaluate_model", "--run", trained, "--output_dir", tmp_path / "here")
    for label, count in (("test", 300), ("unseen", 200)):
        there, here = (_read(tmp_path / name / label / "predictions.jsonl") for name in ("there", "here"))
        differing = [(row, other) for row, other in zip(there, here, strict=True) if row != other]
        gaps = [compute_gap(trained, row["prompt"], row["prediction"], other["prediction"]) for row, other in differing]
        assert len(here) == count
        assert all(gap < 1e-4 for gap in gaps), "a difference that is not a tie"
        speeds = [json.loads((tmp_path / name / label / "results.json").read_text("utf-8"))["tokens_per_s"]
                  for name in ("there", "here")]  # fmt: skip
        print(f"{label}: {count - len(gaps)} of {count} answers equal, gaps of the ties {gaps}; vLLM, transformers: "
              f"{speeds} tokens/s")  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_vllm_generates_the_answers_of_grpo(vllm: Vllm, tmp_path: Path) -> None:
    """Greedily it generates what the model generates here: rewards and lengths are equal."""
    logs = []
    for name, words in (("there", [f"grpo.server={vllm.url}"]), ("here", [])):
        run = tmp_path / name
        command("train", *LEARNT, "grpo.top_k=1", "training.max_steps=3", *words, f"training.output_dir={run}")
        history = json.loads((run / "trainer_state.json").read_text("utf-8"))["log_history"]
        logs.append([(log["reward"], log["completions/mean_length"]) for log in history if "reward" in log])
    assert len(logs[0]) == 3
    assert logs[0] == [pytest.approx(each) for each in logs[1]]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_answers_are_lost_when_server_or_client_is_killed(vllm: Vllm, trained: Path, tmp_path: Path) -> None:
    def answer(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "inference.py", "--run", str(trained), "--server", vllm.url, "--served_model", "tuned",
             "--input_file", "examples/quickstart/arithmetic/test.jsonl", "--output_file", str(tmp_path / name),
             "--batch_size", "2"], cwd=ROOT,
        )  # fmt: skip

    def wait_for(name: str, num_answers: int) -> None:
        partial = tmp_path / f"{name}.partial.jsonl"
        while not (partial.exists() and partial.read_bytes().count(b"\n") > num_answers):
            time.sleep(0.002)

    assert answer("whole.jsonl").wait() == 0
    client = answer("killed.jsonl")
    wait_for("killed.jsonl", 30)
    client.kill()
    client.wait()
    client = answer("killed.jsonl")
    wait_for("killed.jsonl", 100)
    vllm.kill()
    assert client.wait() == 1
    assert 100 < (tmp_path / "killed.jsonl.partial.jsonl").read_bytes().count(b"\n") < 301
    vllm.start()
    assert answer("killed.jsonl").wait() == 0
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
