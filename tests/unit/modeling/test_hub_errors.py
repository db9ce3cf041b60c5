"""What a user reads when a checkpoint cannot be loaded: real failures of the real libraries."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError
from utils.modeling.base_model import load_base_model
from utils.modeling.head import HeadSpec
from utils.modeling.tokenizer import load_tokenizer

COMMIT = "c0ffee" + "0" * 34
PROGRAM = """
import json, sys, time
from utils.core.errors import ModelError
from utils.modeling.base_model import load_base_model
from utils.modeling.head import read_label_order
from utils.modeling.source import resolved_commit
from utils.config.sections.model import ModelSection
from utils.modeling.tokenizer import load_tokenizer
for values in json.loads(sys.argv[1]):
    section = ModelSection(**values)
    start = time.monotonic()
    try:
        tokenizer = load_tokenizer(section)
        said = "loaded " + str(resolved_commit(load_base_model(section, tokenizer, None)))
    except ModelError as error:
        said = str(error)
    print(json.dumps([said, time.monotonic() - start]))
"""


def load_elsewhere(tmp_path: Path, sections: list[dict], **environment: str) -> list[tuple[str, float]]:
    """Load in a separate process, since huggingface_hub reads the environment on import."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(sections)],
        env={**clean, "HF_HOME": str(tmp_path / "home"), "TRANSFORMERS_VERBOSITY": "error", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def cache(tmp_path: Path, folder: Path, name: str) -> None:
    """Store a checkpoint in the hub's cache as a download of the main branch leaves it."""
    repository = tmp_path / "home" / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT)


@contextmanager
def hub_that_answers(status: int, code: str):
    """Run a local hub that refuses every request as the real one does."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "refused")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def add_adapter(folder: Path) -> None:
    """Save a LoRA beside a base model's files, as some repositories do."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder)
    get_peft_model(base, LoraConfig(task_type="CAUSAL_LM")).save_pretrained(folder)


def test_offline_and_cached(tmp_path, make_checkpoint):
    folder = make_checkpoint("llama")
    cache(tmp_path, folder, "acme/tiny")
    add_adapter(folder)
    cache(tmp_path, folder, "acme/adapted")
    sections = [
        {"name_or_path": "acme/tiny"},
        {"name_or_path": "acme/tiny", "revision": COMMIT},
        {"name_or_path": "acme/tiny", "revision": "v2"},
        {"name_or_path": "acme/other"},
        {"name_or_path": "acme/adapted"},
    ]
    cached, pinned, wrong, other, adapted = load_elsewhere(tmp_path, sections, HF_HUB_OFFLINE="1")
    assert cached[0] == pinned[0] == f"loaded {COMMIT}"
    assert "acme/tiny at revision v2 is not in the local cache and HF_HUB_OFFLINE forbids" in wrong[0]
    assert "acme/other is not in the local cache and HF_HUB_OFFLINE forbids" in other[0]
    assert "local folder" in other[0]
    assert "acme/adapted includes an adapter" in adapted[0], "transformers alone would load it silently"


def test_an_unreachable_hub_is_detected_at_once(tmp_path, make_checkpoint):
    cache(tmp_path, make_checkpoint("llama"), "acme/tiny")
    sections = [
        {"name_or_path": "acme/tiny"},
        {"name_or_path": "acme/other"},
        {"name_or_path": "acme/other", "revision": COMMIT},
        {"name_or_path": "acme/other", "token": True},
    ]
    answers = load_elsewhere(tmp_path, sections, HF_ENDPOINT="http://127.0.0.1:9")
    assert answers[0][0] == f"loaded {COMMIT}", "what is cached needs no network"
    assert answers[0][1] < 20, "one retried request takes 23 s"
    assert "model.token is true but there is no login; run `hf auth login`" in answers[3][0]
    for said, seconds in answers[1:3]:
        assert "the hub (http://127.0.0.1:9) cannot be reached" in said
        assert "HF_ENDPOINT" in said
        assert "\n" not in said
        assert seconds < 8


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (401, "RepoNotFound", "the hub has no model acme/tiny that you may read.*spelling.*hf auth login"),
        (403, "GatedRepo", "acme/tiny is gated: accept its licence on .*acme/tiny.*hf auth login"),
        (404, "RevisionNotFound", "acme/tiny has no revision v9"),
        (403, "", "the hub answered 403 for acme/tiny.*hf auth login"),
        (400, "", "the hub answered 400 for acme/tiny.*HF_ENDPOINT"),
    ],
)
def test_refusals_of_the_hub(monkeypatch, status, code, says):
    from huggingface_hub import constants

    with hub_that_answers(status, code) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
        start = time.monotonic()
        with pytest.raises(ModelError, match=says) as caught:
            load_tokenizer(ModelSection(name_or_path="acme/tiny", revision="v9"))
        assert "\n" not in str(caught.value)
        assert time.monotonic() - start < 8


@pytest.fixture
def broken(make_checkpoint, tmp_path):
    """Return a function that loads a valid tokenizer from a folder that the test modified."""

    def load(change):
        folder = make_checkpoint("llama")
        section = ModelSection(name_or_path=str(folder))
        tokenizer = load_tokenizer(section)
        change(folder)
        with pytest.raises(ModelError) as caught:
            load_base_model(section, tokenizer, HeadSpec(2, ("a", "b"), "single_label_classification"))
        assert "\n" not in str(caught.value)
        assert "Traceback" not in str(caught.value)
        return str(caught.value)

    return load


def config_with(**values):
    def change(folder: Path):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


def test_folder_without_config(broken):
    assert "holds no config.json" in broken(lambda folder: (folder / "config.json").unlink())


def test_folder_that_is_an_adapter(broken):
    text = '{"base_model_name_or_path": "acme/base"}'
    assert "its base is acme/base" in broken(lambda folder: (folder / "adapter_config.json").write_text(text))


def test_folder_without_weights(broken):
    assert "holds no safetensors weights" in broken(lambda folder: (folder / "model.safetensors").unlink())


def test_pickled_weights(broken):
    said = broken(lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"))
    assert "use_safetensors=False" in said


def test_damaged_weights(broken):
    said = broken(lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 64))
    assert "is damaged" in said


def test_config_that_is_not_json(broken):
    assert "not JSON" in broken(lambda folder: (folder / "config.json").write_text("{"))


def test_config_with_a_wrong_value(broken):
    assert "hidden_size" in broken(config_with(hidden_size="wide"))


def test_unknown_architecture(broken):
    said = broken(config_with(model_type="zzz"))
    assert "does not know" in said
    assert "trust_remote_code" in said


def test_code_shipped_with_the_checkpoint(broken):
    said = broken(config_with(model_type="zzz", auto_map={"AutoConfig": "code.Config"}))
    assert "read that code, then set model.trust_remote_code" in said


def test_config_without_model_type(broken):
    said = broken(lambda folder: (folder / "config.json").write_text("{}"))
    assert "not a transformers checkpoint" in said


@pytest.mark.parametrize("name", ["a/b/c", "two words", "./nowhere"])
def test_invalid_model_names(name):
    with pytest.raises(ModelError, match=r"neither an existing folder nor a hub name|does not exist"):
        load_tokenizer(ModelSection(name_or_path=name))
