"""A GPU gives the same results as the CPU: losses, scores, stored states, sharded training.

`make gpu` runs these tests where there is an NVIDIA GPU. With LORA_NS_GPU_TESTS=cpu they run without one, so that the
tests themselves are checked; what needs a GPU is then skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.trainer import varlen_attention
from utils.trainer.chunked_cross_entropy import ChunkedCrossEntropy, LossSpec

ROOT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else os.environ.get("LORA_NS_GPU_TESTS", "")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE not in ("cuda", "cpu"), reason="there is no CUDA device"),
]
needs_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
SINGLE, HALF = 1e-3, 3e-2
"""Relative tolerance of losses: in float32, and with rounding to 16 bits or fewer."""


def train(folder: Path, base: str, *words: str, launcher: tuple[str, ...] = ()) -> list[float]:
    """Train a shipped example by the command and return its losses."""
    command = [sys.executable, *launcher, str(ROOT / "train.py"), "--config", str(ROOT / "configs" / f"{base}.yaml")]
    settings = [f"training.output_dir={folder}", "training.max_steps=10", "training.logging_steps=1", *words]
    settings += [] if base == "quickstart" else ["evaluation.at_end=false"]
    settings += ["training.use_cpu=true"] if DEVICE == "cpu" else []
    done = subprocess.run([*command, *settings], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((folder / "trainer_state.json").read_text("utf-8"))
    return [log["loss"] for log in state["log_history"] if "loss" in log]


@pytest.mark.parametrize(
    ("base", "words", "tolerance"),
    [
        ("quickstart", (), SINGLE),
        ("quickstart", ("peft.method=qst",), SINGLE),
        ("quickstart", ("peft.method=qst", "peft.cache=auto"), SINGLE),
        ("quickstart", ("peft.method=prefix_tuning",), SINGLE),
        ("quickstart_sft", (), SINGLE),
        ("quickstart_sft", ("sft.packing=true",), SINGLE),
        ("quickstart_sft", ("model.quantization=nf4",), HALF),
        ("quickstart_sft", ("model.quantization=int8",), HALF),
        ("quickstart_sft", ("training.bf16=true",), HALF),
        ("quickstart_dpo", (), SINGLE),
    ],
)
def test_losses_equal_those_of_the_cpu(tmp_path: Path, base: str, words: tuple[str, ...], tolerance: float) -> None:
    found = train(tmp_path / "here", base, *words)
    wanted = train(tmp_path / "cpu", base, *words, "training.use_cpu=true")
    assert len(found) == 10
    assert found == pytest.approx(wanted, rel=tolerance, abs=tolerance)


@needs_cuda
def test_a_compiled_model_trains_the_same(tmp_path: Path) -> None:
    found = train(tmp_path / "compiled", "quickstart_sft", "training.torch_compile=true")
    assert found == pytest.approx(train(tmp_path / "plain", "quickstart_sft"), rel=SINGLE, abs=SINGLE)


@pytest.mark.parametrize(
    "words",
    [
        (),
        pytest.param(("training.fsdp=full_shard auto_wrap",), marks=needs_cuda),
        pytest.param(("training.deepspeed=configs/deepspeed/zero2.json",), marks=needs_cuda),
    ],
)
def test_two_processes_train_as_one(tmp_path: Path, words: tuple[str, ...]) -> None:
    if DEVICE == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    if "deepspeed" in " ".join(words) and not shutil.which("ds_report"):
        pytest.skip("deepspeed is not installed")
    both = ("training.global_batch_size=8", "training.per_device_train_batch_size=4")
    launcher: tuple[str, ...] = ("-m", "accelerate.commands.launch", "--num_processes", "2")
    if DEVICE == "cpu":  # accelerate starts one process there, and train.py rejects that
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    found = train(tmp_path / "two", "quickstart_sft", *both, *words, launcher=launcher)
    assert found == pytest.approx(train(tmp_path / "one", "quickstart_sft", *both), rel=HALF, abs=HALF)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chunked_loss_equals_that_of_full_logits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2100, 64, device=DEVICE, dtype=dtype, requires_grad=True)
    weight = torch.randn(5000, 64, device=DEVICE, dtype=dtype)
    targets = torch.randint(0, 5000, (2100,), device=DEVICE)
    total, _ = ChunkedCrossEntropy.apply(hidden, weight, None, targets, LossSpec())
    total.backward()
    exact = hidden.detach().double().requires_grad_()
    wanted = torch.nn.functional.cross_entropy(exact @ weight.double().t(), targets, reduction="sum")
    wanted.backward()
    assert hidden.grad is not None
    assert exact.grad is not None
    plain = hidden.detach().clone().requires_grad_()
    torch.nn.functional.cross_entropy((plain @ weight.t()).float(), targets, reduction="sum").backward()
    assert plain.grad is not None
    assert float(total) == pytest.approx(float(wanted), rel=1e-4 if dtype == torch.float32 else 2e-2)
    error, plain_error = (float((each.grad - exact.grad).abs().max()) for each in (hidden, plain))
    assert error <= 1.2 * plain_error + 1e-6, "as exact as full logits in the same precision"


@pytest.mark.parametrize("window", [None, 40])
def test_flash_and_grouped_document_attention_agree(window: int | None, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    lengths = [5, 70, 33, 1, 128]
    boundaries = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).to(torch.int32)
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    tensors = [
        torch.randn(1, heads, sum(lengths), 64, device=DEVICE, dtype=dtype, requires_grad=True) for heads in (8, 2, 2)
    ]

    def attend() -> list[torch.Tensor]:
        for each in tensors:
            each.grad = None
        given = boundaries.clone()
        out, _ = varlen_attention.attend_within_documents(
            torch.nn.Identity(), *tensors, None, cu_seq_lens_q=given, sliding_window=window
        )
        out.float().square().sum().backward()
        return [out.detach().float(), *(each.grad.float() for each in tensors if each.grad is not None)]

    found = attend()
    monkeypatch.setattr(varlen_attention, "_has_kernel", lambda *_: False)
    for one, other in zip(found, attend(), strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < HALF
