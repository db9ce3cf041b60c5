"""The example extension, killed at a restart of its schedule, ends bit for bit the same; plain peft loads it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from utils.modeling.consent import Consent
from utils.runs.open_model import open_run

ROOT = Path(__file__).parents[2]
EXTENSION = ROOT / "examples" / "extensions" / "refactored_lora"
PLAIN = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
assert "utils" not in sys.modules
print(json.dumps(model(input_ids=torch.arange(5, 25)[None]).logits[0, -1].tolist()))
"""


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a run that restarts its schedule and saves at steps 20 and 40 of 60."""
    settings = [
        f"extensions=[{EXTENSION}]", "peft.method=refactored_lora", "peft.lora_r=4", "training.max_steps=60",
        "training.lr_scheduler_type=restarts", "training.restart_every=20", "training.restart_warmup_steps=3",
        "training.restart_decay=5", "training.save_strategy=steps", "training.save_steps=20",
        "training.report_to=none", "evaluation.at_end=false", f"training.output_dir={folder}",
    ]  # fmt: skip
    command = [sys.executable, "train.py", "--config", "configs/quickstart_sft.yaml", *words, *settings]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", [20, 40])
def test_killed_at_a_restart(step: int, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    process = start(killed)
    # The folder appears while that step's hooks, including the restart, are running or just done.
    while not (killed / f"checkpoint-{step}").exists():
        assert process.poll() is None, "the run must not be finished yet"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start(killed, "--resume").wait() == 0
    wanted, found = (load_file(each / "final_model" / "adapter_model.safetensors") for each in (whole, killed))
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)

    model = open_run(killed, Consent(allow_extensions=True))
    loaded = model.load_model(model.load_tokenizer()).eval()
    with torch.no_grad():
        ours = loaded(input_ids=torch.arange(5, 25)[None]).logits[0, -1]
    base = ROOT / "examples" / "quickstart" / "base"
    command = [sys.executable, "-c", PLAIN, str(base), str(killed / "final_model")]
    theirs = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    torch.testing.assert_close(ours, torch.tensor(json.loads(theirs.stdout)), rtol=1e-5, atol=1e-5)
