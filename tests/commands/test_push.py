"""Pushing to the hub: the real client against a small hub on this machine, which keeps what it is given."""

from __future__ import annotations

import base64
import http.server
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.core.errors import ConfigError
from utils.results.record import RunRecord
from utils.run_config import load_run_config
from utils.runs import hub as pushing
from utils.runs.open_model import open_run

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
FINAL = {"README.md", "adapter_config.json", "adapter_model.safetensors", "run.yaml", "tokenizer.json",
         "tokenizer_config.json"}  # fmt: skip


@dataclass
class Hub:
    """What the hub was asked, and what it has."""

    url: str = ""
    repos: dict[str, bool] = field(default_factory=dict)
    """By name, whether it is private."""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By repository (and branch, where it is not main)."""
    asked: list[str] = field(default_factory=list)
    status: int = 200
    """Of a commit."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    known = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, data: Any, status: int = 200, code: str = "") -> None:
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            known.asked.append(f"GET {self.path}")
            if self.path == "/api/whoami-v2":
                return self.answer({"type": "user", "name": "me", "auth": {"accessToken": {"role": "write"}}})
            name = self.path.partition("?")[0].removeprefix("/api/models/")
            if name not in known.repos:
                return self.answer({"error": "Repository not found"}, 404, "RepoNotFound")
            return self.answer({"id": name, "modelId": name, "private": known.repos[name], "tags": [], "siblings": []})

        def do_POST(self) -> None:
            known.asked.append(f"POST {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization', 'me')}/{asked['name']}"
                known.repos[name] = asked.get("private", False) or asked.get("visibility") == "private"
                return self.answer({"url": f"{known.url}/{name}"})
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", self.path)
            assert found, self.path
            repo, what, revision = found.groups()
            if what == "preupload":
                files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                         for each in json.loads(body)["files"]]  # fmt: skip
                return self.answer({"files": files})
            if what == "commit" and known.status == 200:
                kept = known.files.setdefault(repo if revision == "main" else f"{repo}@{revision}", {})
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            done = {"success": True, "commitOid": "a" * 40, "commitUrl": f"{known.url}/{repo}/commit/{'a' * 40}"}
            return self.answer(done, known.status if what == "commit" else 200)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield known
    server.shutdown()
    server.server_close()


def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_" + "x" * 30,
            "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}  # fmt: skip


def settings(folder: Path, **training: Any) -> dict[str, Any]:
    return {
        "task_name": "sums", "task_type": "CAUSAL_LM",
        "model": {"name_or_path": str(QUICKSTART / "base"), "dtype": "float32"},
        "peft": {"method": "lora", "lora_r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        "dataset": {"name": "gsm8k", "path": str(QUICKSTART / "arithmetic"), "max_train_samples": 8,
                    "validation_size": 4},
        "training": {"output_dir": str(folder), "max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True,
                     "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-3, **training},
        "sft": {"max_length": 128}, "evaluation": {"at_end": False},
    }  # fmt: skip


def test_a_run_pushes_its_final_model_and_nothing_else(hub, tmp_path):
    """The whole command, with the hub's own client; afterwards, and after a push by others, --run reads final_model."""
    folder, file = tmp_path / "run", tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings(folder, push_to_hub=True, hub_model_id="me/sums")))
    command = [sys.executable, "train.py", "--config", str(file)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(hub, tmp_path), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert hub.repos == {"me/sums": True}, "private unless said otherwise"
    pushed = hub.files["me/sums"]
    assert set(pushed) == FINAL
    written = {name: (folder / "final_model" / name).read_bytes() for name in FINAL}
    assert [name for name in sorted(FINAL) if pushed[name] != written[name]] == ["run.yaml"]
    assert str(tmp_path).encode() not in pushed["run.yaml"], "the folders of this machine are nobody's business"
    assert sum(asked.startswith("POST /api/models/me/sums/commit") for asked in hub.asked) == 1
    card = pushed["README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "peft"
    assert "| loss |" in card
    assert "More Information Needed" not in card
    assert str(tmp_path) not in card
    assert "reload check" in done.stderr
    assert f"pushed: {hub.url}/me/sums/commit/" in done.stderr
    for name in (".cache", ".gitattributes", "README.md"):
        assert not (folder / name).exists()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md", ".gitattributes", "config.json"):
        (folder / name).write_text("{}")  # as a Trainer that pushes leaves them in the run's folder
    assert open_run(folder).weights == folder / "final_model"
    assert open_run(folder / "checkpoint-1").weights == folder / "checkpoint-1"


@pytest.fixture
def finished(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that pushes a finished run with these settings of `training:`."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    folder = tmp_path / "my run"
    for name in ("final_model/adapter_config.json", "results.json", "logs/events", "checkpoint-1/optimizer.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    record = RunRecord("success", "sums", "CAUSAL_LM", "lora", metrics={"loss": 1.5, "em_strict": 0.25})

    def push(dry_run: bool = False, **training: Any) -> dict[str, Any]:
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(settings(folder, **training)))
        return pushing.push_run(folder, load_run_config(file), record, dry_run)

    return push


def test_a_dry_run_shows_the_files_and_asks_nobody(hub, finished, caplog):
    with caplog.at_level(logging.INFO, "utils"):
        answer = finished(dry_run=True, hub_model_id="me/sums")
    assert hub.asked == []
    assert answer["pushed"]["files"] == ["README.md", "adapter_config.json"]
    assert "would push to the private repository me/sums:\n  README.md  (" in caplog.text
    assert finished() == {}, "nothing is pushed that was not asked for"


def test_what_is_named_goes_with_it_under_ones_own_name_and_branch(hub, finished, caplog):
    finished(push_to_hub=True, hub_model_id="sums", hub_revision="try", hub_private_repo=False,
             hub_files=["results.json", "logs/*", "nothing*"])  # fmt: skip
    assert hub.repos == {"me/sums": False}
    assert set(hub.files["me/sums@try"]) == {"README.md", "adapter_config.json", "results.json", "logs/events"}
    assert b"em_strict x100 | 25 |" in hub.files["me/sums@try"]["README.md"]
    assert "hub_files: nothing* names no file" in caplog.text


def test_a_public_repository_that_is_there_is_not_written_by_default(hub, finished):
    hub.repos["me/sums"] = False
    with pytest.raises(pushing.PushError, match=r"there already, and public: set training.hub_private_repo: false"):
        finished(push_to_hub=True, hub_model_id="me/sums")
    assert hub.files == {}
    finished(push_to_hub=True, hub_model_id="me/sums", hub_private_repo=False)
    assert "README.md" in hub.files["me/sums"]


def test_a_hub_that_refuses_is_one_sentence(hub, finished):
    hub.status = 403
    with pytest.raises(pushing.PushError, match=r"is done and kept, and was not pushed to me/sums: .*403") as caught:
        finished(push_to_hub=True, hub_model_id="me/sums")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_folder_whose_name_is_no_repository_is_said_before_the_run(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings(tmp_path / "my run", push_to_hub=True)))
    with pytest.raises(ConfigError, match=r"training\.hub_model_id: 'my run' is no name of a repository"):
        load_run_config(file)
    file.write_text(yaml.safe_dump(settings(tmp_path / "my_run", push_to_hub=True)))
    assert pushing.plan_push(tmp_path / "my_run", load_run_config(file)).repo == "my_run"


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints", "end"])
def test_strategies_are_honoured_or_refused(strategy, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings(tmp_path / "run", push_to_hub=True, hub_strategy=strategy)))
    if strategy == "end":
        config = load_run_config(file)
        file.write_text(yaml.safe_dump(settings(tmp_path / "run")))
        assert config.fingerprint() == load_run_config(file).fingerprint(), "a finished run can be pushed later"
        return
    with pytest.raises(ConfigError, match=f"{strategy} is not done: final_model is pushed once it is proved"):
        load_run_config(file)
