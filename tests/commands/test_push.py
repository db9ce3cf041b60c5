"""Pushing to the hub: the real client against a small local hub, which stores what it receives."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands.in_process import command
from tests.hub_server import Hub, commit_of, serve_hub
from utils.api import load_run
from utils.core.errors import ConfigError, UserError
from utils.results.record import RunRecord, write_record
from utils.run_config import load_run_config
from utils.runs import push as pushing
from utils.runs.hub import Push, PushError, send
from utils.runs.model_card import write_card
from utils.runs.open_model import open_run

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
FINAL = {"README.md", "adapter_config.json", "adapter_model.safetensors", "results.json", "run.yaml",
         "tokenizer.json", "tokenizer_config.json"}  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serve_hub() as served:
        for name, value in {"ENDPOINT": served.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True,
                            "HUGGINGFACE_CO_URL_TEMPLATE": served.url + "/{repo_id}/resolve/{revision}/{filename}",
                            "HF_HUB_CACHE": str(tmp_path / "cache")}.items():  # fmt: skip
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", served.url)
        monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        yield served


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


def write(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return folder / "run.yaml"


def test_a_run_pushes_only_its_final_model(hub, tmp_path, caplog):
    """With the hub's own client; afterwards, and after a push by others, --run reads final_model."""
    folder = tmp_path / "run"
    with caplog.at_level(logging.INFO, "utils"):
        command("train", "--config", write(tmp_path, settings(folder, push_to_hub=True, hub_model_id="me/sums")))
    assert hub.repos == {"me/sums": True}, "private by default"
    pushed = hub.files["me/sums"]
    assert set(pushed) == FINAL
    written = {name: (folder / "final_model" / name).read_bytes() for name in FINAL - {"results.json"}}
    rewritten = [name for name in sorted(written) if pushed[name] != written[name]]
    assert rewritten == ["README.md", "adapter_config.json", "run.yaml"]
    for name, content in pushed.items():
        assert str(ROOT).encode() not in content, f"{name}: local folders must not be disclosed"
        assert str(tmp_path).encode() not in content, name
    assert json.loads(pushed["adapter_config.json"])["base_model_name_or_path"] == "./base"
    assert sum(asked.startswith("POST /api/models/me/sums/commit") for asked in hub.asked) == 1
    card = pushed["README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "peft"
    assert "| loss |" in card
    assert 'PeftModel.from_pretrained(base, "me/sums")' in card
    assert "--run hub:me/sums" in card
    assert "More Information Needed" not in card
    assert str(tmp_path) not in card
    assert "reload check" in caplog.text
    assert f"pushed: {hub.url}/me/sums/commit/" in caplog.text
    for name in (".cache", ".gitattributes", "README.md"):
        assert not (folder / name).exists()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md", ".gitattributes", "config.json"):
        (folder / name).write_text("{}")  # as a Trainer that pushes leaves them in the run's folder
    assert open_run(folder).weights == folder / "final_model"
    assert open_run(folder / "checkpoint-1").weights == folder / "checkpoint-1"


@pytest.fixture
def finished(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that pushes a finished run with these settings of `training:`."""
    folder = tmp_path / "my run"
    for name in ("final_model/adapter_config.json", "results.json", "logs/events", "checkpoint-1/optimizer.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "results.json").unlink()
    record = RunRecord("success", "sums", "CAUSAL_LM", "lora", metrics={"loss": 1.5, "em_strict": 0.25})
    write_record(folder, record)
    write_card(folder / "final_model", load_run_config(write(tmp_path, settings(folder))), record)

    def push(dry_run: bool = False, **training: Any) -> dict[str, Any]:
        file = write(tmp_path, settings(folder, **training))
        return pushing.push_run(folder, load_run_config(file), record, dry_run)

    return push


def test_a_dry_run_lists_the_files_without_requests(hub, finished, caplog):
    with caplog.at_level(logging.INFO, "utils"):
        answer = finished(dry_run=True, hub_model_id="me/sums")
    assert hub.asked == []
    assert list(answer["pushed"]["files"]) == ["README.md", "adapter_config.json", "results.json"]
    assert answer["pushed"]["withheld"].keys() == {"checkpoint-1/", "logs/"}
    assert "would push to the private repository me/sums:\n  README.md  " in caplog.text
    assert finished() == {}, "only requested files are pushed"


def test_named_files_are_pushed_to_the_given_name_and_branch(hub, finished, caplog):
    finished(push_to_hub=True, hub_model_id="sums", hub_revision="try", hub_private_repo=False,
             hub_files=["logs/*", "nothing*"])  # fmt: skip
    assert hub.repos == {"me/sums": False}
    assert set(hub.files["me/sums@try"]) == {"README.md", "adapter_config.json", "results.json", "logs/events"}
    assert b"em_strict x100 | 25.00 |" in hub.files["me/sums@try"]["README.md"]
    assert "hub_files: nothing* names no file" in caplog.text


@pytest.mark.parametrize("pattern", ["", ".", "**x", "../*", "/etc/*"])
def test_files_are_named_by_patterns_within_the_folder(finished, pattern):
    with pytest.raises(ConfigError, match=r"training.hub_files: .* is not a pattern of files in the run's folder"):
        finished(hub_files=[pattern])


def test_an_existing_public_repository_is_not_overwritten_by_default(hub, finished):
    hub.repos["me/sums"] = False
    with pytest.raises(PushError, match=r"already exists and is public: set training.hub_private_repo: false"):
        finished(push_to_hub=True, hub_model_id="me/sums")
    assert hub.files == {}
    finished(push_to_hub=True, hub_model_id="me/sums", hub_private_repo=False)
    assert "README.md" in hub.files["me/sums"]


def test_a_refusal_of_the_hub_is_reported_in_one_sentence(hub, finished):
    hub.status = 403
    with pytest.raises(PushError, match=r"is kept, and was not pushed to me/sums: .*403") as caught:
        finished(push_to_hub=True, hub_model_id="me/sums")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_an_invalid_repository_name_is_reported_before_the_run(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings(tmp_path / "my run", push_to_hub=True)))
    with pytest.raises(ConfigError, match=r"training\.hub_model_id: 'my run' is not a valid repository name"):
        load_run_config(file)
    file.write_text(yaml.safe_dump(settings(tmp_path / "my_run", push_to_hub=True)))
    load_run_config(file)


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints", "end"])
def test_hub_strategies_are_applied_or_refused(strategy, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings(tmp_path / "run", push_to_hub=True, hub_strategy=strategy)))
    if strategy == "end":
        config = load_run_config(file)
        file.write_text(yaml.safe_dump(settings(tmp_path / "run")))
        assert config.fingerprint() == load_run_config(file).fingerprint(), "a finished run can be pushed later"
        return
    with pytest.raises(ConfigError, match=f"{strategy} is not done: final_model is pushed once it is proved"):
        load_run_config(file)


ASK = ("--input_text", "Tom has 4 apples and buys 3 more. How many?", "--max_new_tokens", "4", "--json")


@pytest.fixture
def pushed(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train on a base of the hub, and push by the command; return the run's folder."""
    monkeypatch.chdir(tmp_path)
    hub.repos["acme/tiny"] = False
    hub.files["acme/tiny"] = {each.name: each.read_bytes() for each in (QUICKSTART / "base").iterdir()}
    content = settings(tmp_path / "run")
    content["model"]["name_or_path"] = "acme/tiny"
    command("train", "--config", write(tmp_path, content))
    command("utils.runs.push", tmp_path / "run", "sums")
    return tmp_path / "run"


def answer(run: str | Path) -> Any:
    return command("inference", "--run", run, *ASK)["answers"]


def test_a_pushed_model_is_read_back_and_answers_the_same(hub, pushed, tmp_path):
    assert hub.repos["me/sums"]
    assert answer("hub:me/sums") == answer(pushed)
    ours, theirs = (load_run(each).record.metrics for each in (pushed, "hub:me/sums"))
    assert theirs == ours
    merged = command("merge_adapter", "--run", "hub:me/sums", "--output", tmp_path / "merged")
    assert merged["probe"]["top1_agreement"] == 1
    check_cards(tmp_path / "merged")
    rows = tmp_path / "sums.jsonl"
    rows.write_text(json.dumps({"question": "Tom has 4 apples and buys 3 more. How many?", "answer": "#### 7"}) + "\n")
    command("evaluate_model", "--run", "hub:me/sums", "--set", f"{rows}?name=gsm8k")
    assert (tmp_path / "outputs" / "eval_hub_me_sums").is_dir(), "results must not go into the hub's cache"

    command("utils.runs.push", tmp_path / "merged", "me/merged", "--public", "--revision", "v1")
    there = hub.files["me/merged@v1"]
    assert there.keys() >= {"README.md", "model.safetensors", "tokenizer.json", "merged_run.yaml"}
    assert "merge_report.json" not in there
    assert not [name for name, content in there.items() if str(tmp_path).encode() in content]
    shutil.rmtree(tmp_path / "merged")
    assert answer("hub:me/merged@v1") == answer(pushed)
    hub.repos.clear()
    assert answer("hub:me/sums@" + commit_of(hub.files["me/sums"])) == answer(pushed), "the cache needs no hub"


@pytest.mark.slow
def test_separate_processes_push_and_read_back_by_environment_variables(hub, tmp_path):
    hub.repos["acme/tiny"] = False
    hub.files["acme/tiny"] = {each.name: each.read_bytes() for each in (QUICKSTART / "base").iterdir()}
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("HF_HUB_OFFLINE", None)

    def call(*words: str | Path) -> str:
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    content = settings(tmp_path / "run")
    content["model"]["name_or_path"] = "acme/tiny"
    call(ROOT / "train.py", write(tmp_path, content))
    assert f"pushed: {hub.url}/me/sums/commit/" in call("-m", "utils", "push", "run", "me/sums")
    assert hub.repos["me/sums"], "private"
    mine, theirs = (json.loads(call(ROOT / "inference.py", "--run", name, *ASK)) for name in ("run", "hub:me/sums"))
    assert theirs["answers"] == mine["answers"]


def check_cards(merged: Path) -> None:
    """Read both cards with the hub's own client."""
    from huggingface_hub import ModelCard, metadata_load

    pushed, card = ModelCard.load("me/sums"), ModelCard.load(merged / "README.md")
    assert (pushed.data.base_model, pushed.data.base_model_relation) == ("acme/tiny", "adapter")
    assert (card.data.base_model_relation, card.data.library_name) == ("finetune", "transformers")
    assert metadata_load(merged / "README.md")["pipeline_tag"] == "text-generation"
    assert "| largest difference of a logit |" in card.text
    assert "Method `lora`: `{'target_modules': 'all-linear', 'lora_r': 4, 'lora_alpha': 8.0}`" in card.text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "hub:me/none",
            "the hub has no model me/none that you may read; check the spelling, or, if it is",
        ),
        ("hub:acme/gated", r"acme/gated is gated: accept its licence on .*/acme/gated\), then run `hf auth login`"),
        ("hub:acme/tiny@v9", "acme/tiny has no revision v9; choose one listed on"),
        ("hub:acme/tiny", "hub:acme/tiny: has no run.yaml, so it is not a run; for a whole model use --model"),
        ("hub:a/b/c", "'a/b/c' is not a valid repository name"),
    ],
)
def test_an_unreadable_repository_is_refused_in_one_sentence(name, sentence, hub):
    hub.repos |= {"acme/tiny": False, "acme/gated": False}
    hub.files["acme/tiny"] = {"config.json": b"{}"}
    hub.gated.add("acme/gated")
    with pytest.raises(UserError, match=sentence) as caught:
        answer(name)
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_reported_in_one_sentence(hub, finished, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"me/sums is not in the local cache and the hub .* cannot be reached"):
        answer("hub:me/sums")
    with pytest.raises(PushError, match=r"my run is kept, and was not pushed to me/x: .* cannot be reached"):
        command("utils.runs.push", tmp_path / "my run", "me/x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE forbids"):
        command("utils.runs.push", tmp_path / "my run", "me/x")


def test_the_command_lists_what_is_pushed_and_what_is_not(hub, finished, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HF_TOKEN")
    folder = tmp_path / "my run"
    (folder / "final_model" / "model.bin").write_text("pickled")
    (folder / "final_model" / "rows.jsonl").symlink_to(write(tmp_path, {}))
    words = (folder, "me/sums", "--dry-run", "--include", "logs/*")
    told = command("utils.runs.push", *words)["pushed"]
    assert hub.asked == []
    assert told["files"].keys() == {"README.md", "adapter_config.json", "logs/events", "results.json"}
    assert told["files"]["logs/events"] == 2
    assert told["withheld"]["model.bin"] == "pickled: loading it runs code"
    assert told["withheld"]["rows.jsonl"] == "a link out of the folder"
    assert told["withheld"]["checkpoint-1/"] == "a checkpoint, with the state of its optimizer"
    assert "would push to the private repository me/sums:" in capsys.readouterr().out
    with pytest.raises(PushError, match="there is no login to the hub; run `hf auth login` or set HF_TOKEN"):
        command("utils.runs.push", folder, "me/sums")


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        ("my run", ("me/a b",), "'me/a b' is not a valid repository name"),
        ("none", ("me/x",), "no such folder"),
        ("my run/checkpoint-1", ("me/x",), "is a checkpoint, which has not been verified; push the run"),
        ("my run/logs", ("me/x",), "has no final_model; name a run, or a merged model"),
        ("my run", ("me/x", "--include", "nothing*"), r"--include nothing\*: names no file in"),
        ("my run", ("me/x", "--include", "link"), "is a link out of the folder"),
        *(
            ("my run", ("me/x", "--include", pattern), "--include: .* is not a pattern of files in the run's folder")
            for pattern in ("", ".", "**x", "../*", "/etc/*")
        ),
        ("failed", ("me/x",), r"is not finished \(its status is failed\)"),
    ],
)
def test_unpushable_folders_are_refused_in_one_sentence(name, words, sentence, finished, tmp_path):
    (tmp_path / "my run" / "checkpoint-1" / "complete.json").write_text("{}")
    (tmp_path / "my run" / "link").symlink_to("/etc/hostname")
    shutil.copytree(tmp_path / "my run", tmp_path / "failed", ignore=shutil.ignore_patterns("link"))
    write_record(tmp_path / "failed", RunRecord("failed", "sums", "CAUSAL_LM", "lora"))
    with pytest.raises(UserError, match=sentence):
        command("utils.runs.push", tmp_path / name, *words, "--dry-run")


def test_a_reader_must_name_a_base_that_was_a_local_folder(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, settings(tmp_path / "run"))
    command("train", "--config", file)
    command("utils.runs.push", tmp_path / "run", "me/sums")
    with pytest.raises(UserError, match=r"base does not exist; name a folder that holds config\.json, or a hub name"):
        answer("hub:me/sums")
    words = ("--config", file, "--model_path", "hub:me/sums", *ASK)
    assert command("inference", *words)["answers"] == answer(tmp_path / "run")
    merged = ("--config", file, "--adapter_path", "hub:me/sums", "--output", tmp_path / "merged")
    assert command("merge_adapter", *merged)["probe"]["top1_agreement"] == 1


PAGE, NOTHING, DEEP = b"<html>log in first</html>", b"null", b"[" * 100_000


@pytest.mark.parametrize("body", [PAGE, NOTHING, DEEP], ids=["a page", "null", "deep"])
@pytest.mark.parametrize("asked", ["GET /api/models/me/sums", "GET /me/sums/resolve/", "GET /api/models/.*/tree"])
def test_unexpected_responses_of_a_hub_are_reported(asked, body, hub, monkeypatch, tmp_path):
    hub.repos["me/sums"], hub.files["me/sums"] = True, {"run.yaml": b"a: 1", "config.json": b"{}"}
    hub.instead = {asked: body}
    if "resolve" in asked:  # files may hold anything; their readers report it
        with pytest.raises((UserError, ConfigError)):
            open_run("hub:me/sums")
        return
    with pytest.raises(UserError, match=r"the hub \(http.*\) sent something unexpected for me/sums"):
        open_run("hub:me/sums")


@pytest.mark.parametrize("status", [403, 404])
def test_the_http_status_of_a_hub_is_reported(status, hub):
    hub.instead = {"GET": status}
    with pytest.raises(UserError, match=f"the hub answered {status} for me/sums"):
        open_run("hub:me/sums")


@pytest.mark.parametrize("asked", ["whoami", "GET /api/models", "repos/create", "preupload", "info/lfs", "commit/main"])
def test_a_push_to_a_server_that_is_not_a_hub_is_reported(asked, hub, tmp_path):
    hub.instead = {asked: PAGE}
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(b"x" * 100)
    push = Push("sums", True, None, {"adapter_model.safetensors": file, "README.md": b"x"})
    with pytest.raises(
        PushError, match=r"run is kept, and was not pushed to sums: the hub .* sent something unexpected"
    ):
        send(push, "run", "give --public")
