"""Another user's run, and unwritable caches: reported in one sentence, or worked around."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a file")


@pytest.mark.slow
def test_another_users_run(command_runner: Any, start_run: Any, write_run: Any, tmp_path: Path):
    """Its weights are readable by their owner only, as safetensors writes them; its folder is readable."""
    file, run = write_run("classifier", training__max_steps=2, training__eval_strategy="no")
    made = start_run("--config", str(file))
    assert made.end() == 0, made.said
    for each in (run, *run.rglob("*")):
        os.chown(each, NOBODY, NOBODY, follow_symlinks=False)
    weights = run / "final_model" / "adapter_model.safetensors"
    weights.chmod(0o600)
    log = tmp_path / "log.txt"

    def call(script: str, *words: str, **environment: str) -> tuple[int, str]:
        log.write_text("")
        request = {"script": script, "words": list(words), "log": str(log), "unprivileged": True}
        pid = command_runner.ask(**request, environment=environment)
        return command_runner.ask(wait=pid), log.read_text()

    for words in (
        ("inference.py", "--run", str(run), "--input_text", "dog"),
        ("evaluate_model.py", "--run", str(run), "--output_dir", str(tmp_path / "scores")),
        ("merge_adapter.py", "--run", str(run), "--output", str(tmp_path / "merged")),
    ):
        code, said = call(*words)
        assert code == 2, said
        assert "Traceback" not in said
        assert "Permission denied" in said
        assert str(run) in said

    code, said = call("train.py", "--config", str(file), "--resume")
    assert code == 2, said
    assert "Traceback" not in said
    assert "Permission denied" in said

    weights.chmod(0o604)
    nowhere = {name: str(run / "cache") for name in ("LORA_NS_CACHE", "HF_HOME", "HF_DATASETS_CACHE", "HOME")}
    code, said = call("inference.py", "--run", str(run), "--input_text", "dog", **nowhere)
    assert code == 0, said
    code, said = call("train.py", "--config", str(file), f"training.output_dir={tmp_path / 'mine'}", **nowhere)
    assert code in (0, 2), said
    assert "Traceback" not in said
