"""validate_config.py: numbered checks per file, a summary, exit codes, and each kind of file checked by its rules."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

import validate_config
from utils.cli.command_line import run_cli
from utils.run_config import load_run_config

ROOT = Path(__file__).parents[2]
GOOD = """task_type: SEQ_CLS
model: {name_or_path: bert-base-uncased}
peft: {method: lora}
dataset: {name: glue, subset: rte}
training: {learning_rate: 2e-5, evaluation_strategy: "no", eval_steps: 5}
"""
FILES = {
    "good.yaml": GOOD,
    "bad.yaml": GOOD.replace("lora}", "lora, lora_rr: 8}"),
    "broken.yaml": "task_type: [\n",
    "accelerate.yaml": "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 2\n",
    "inner/zero.json": '{"zero_optimization": {"stage": 2}}',
    "inner/notes.txt": "not a configuration",
    ".venv/package.json": "{}",
    ".hidden.json": '{"$schema": "x"}',
}


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def validate(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def run(*words: str) -> Answer:
        code = run_cli(validate_config.main, validate_config.build(), words)
        return Answer(code, *capsys.readouterr())

    return run


def test_a_valid_file(validate: Callable[..., Answer]) -> None:
    answer = validate("good.yaml")
    assert answer == Answer(
        0,
        "good.yaml (run)\n"
        "  [1/6] reads as YAML: ok\n"
        "  [2/6] keys and values: ok\n"
        "  [3/6] combinations: ok\n"
        "  [4/6] files: ok\n"
        "  [5/6] every setting has an effect: ok\n"
        "        warning: good.yaml:5  training.eval_steps: has no effect; evaluation is not by steps "
        "(training.eval_strategy)\n"
        "  [6/6] this machine: ok\n"
        "        note: good.yaml:5  training.evaluation_strategy: now called training.eval_strategy; read as that\n"
        "\nPASS 1  FAIL 0\n",
        "",
    )


def test_it_continues_after_a_failure_and_prints_a_summary(validate: Callable[..., Answer]) -> None:
    answer = validate("broken.yaml", "bad.yaml", "nowhere.yaml", "good.yaml")
    assert answer.code == 1
    assert "  [1/1] reads as YAML: FAIL\n        broken.yaml:2  not YAML" in answer.out
    assert (
        "  [2/4] keys and values: FAIL\n        bad.yaml:3  peft.lora_rr: unknown key; did you mean lora_r?"
        in answer.out
    )
    assert "nowhere.yaml  no such file" in answer.out
    assert answer.out.endswith("\nPASS 1  FAIL 3\n  FAIL broken.yaml\n  FAIL bad.yaml\n  FAIL nowhere.yaml\n")


def test_all_checks_every_file_below_a_folder_by_its_kind(validate: Callable[..., Answer]) -> None:
    answer = validate("--all", ".")
    lines = [line.removesuffix(": ok") for line in answer.out.splitlines()]
    titles = [line for line in lines if line.endswith(")") and not line.startswith(" ")]
    assert titles == [
        "accelerate.yaml (accelerate)", "bad.yaml (run)", "broken.yaml (run)", "good.yaml (run)",
        "inner/zero.json (deepspeed)",
    ]  # fmt: skip
    assert "PASS 3  FAIL 2" in answer.out
    assert answer.code == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "error: name a file, or --all for every file in configs/\n"),
        (["--all", "nowhere"], "error: --all nowhere: no such folder\n"),
    ],
)
def test_nothing_to_check(words: list[str], sentence: str, validate: Callable[..., Answer]) -> None:
    answer = validate(*words)
    assert (answer.code, answer.err) == (2, sentence)


def test_a_folder_given_as_a_file(validate: Callable[..., Answer]) -> None:
    answer = validate("inner")
    assert answer.code == 1
    assert "inner  this is a folder; name a YAML file in it" in answer.out


def test_show_prints_a_file_that_means_the_same_run(validate: Callable[..., Answer], folder: Path) -> None:
    answer = validate("--show", "good.yaml", "peft.lora_r=4")
    assert answer.code == 0
    assert "PASS 1  FAIL 0" in answer.err
    (folder / "shown.yaml").write_text(answer.out, encoding="utf-8")
    shown, meant = load_run_config("shown.yaml"), load_run_config("good.yaml", ["peft.lora_r=4"])
    assert shown.fingerprint() == meant.fingerprint()
    assert shown.to_dict() == meant.to_dict()
    again = validate("--show", "shown.yaml")
    assert again.out == answer.out


def test_overrides_are_checked_as_well(validate: Callable[..., Answer]) -> None:
    assert validate("bad.yaml", "peft.method=none", "peft.lora_r=3").code == 1
    answer = validate("good.yaml", "training.optim=adam")
    assert answer.code == 1
    assert "command line  training.optim: 'adam' is not allowed" in answer.out


def test_checks_are_named_in_the_language_of_the_results(validate: Callable[..., Answer], folder: Path) -> None:
    steps = ("YAML可读: 通过", "键和值: 未通过", "组合: 通过", "文件: 通过")
    answer = validate("bad.yaml", "results.language=zh")
    for number, step in enumerate(steps, start=1):
        assert f"  [{number}/4] {step}\n" in answer.out
    assert "unknown key; did you mean lora_r?" in answer.out
    suite = f"base: {folder}/good.yaml\nresults: {{language: zh}}\ntasks: {{a: {{}}}}\nseeds: [1, 2]\n"
    (folder / "suite.yaml").write_text(f"suite: s\n{suite}")
    assert "  [3/5] 2次运行: 通过\n" in validate("suite.yaml").out


def test_schema_is_a_json_schema_that_accepts_a_valid_file(validate: Callable[..., Answer]) -> None:
    from utils.config.yaml_text import parse_value

    answer = validate("--schema")
    assert answer.code == 0
    schema = json.loads(answer.out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(parse_value("{task_type: SEQ_CLS, peft: {method: lora, lora_r: 4}}"), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(parse_value("{peft: {method: lora, lora_rr: 4}}"), schema)


@pytest.fixture
def run_json(folder: Path) -> Callable[..., Any]:
    def run(*words: str) -> tuple[int, Any]:
        command = [sys.executable, str(ROOT / "validate_config.py"), "--json", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, encoding="utf-8")
        assert done.stdout.count("\n") == 1
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)

    return run


def test_json_is_one_object(run_json: Callable[..., Any]) -> None:
    code, answer = run_json("--all", ".")
    assert code == 1
    assert {name: file["pass"] for name, file in answer["files"].items()} == {
        "accelerate.yaml": True, "bad.yaml": False, "broken.yaml": False, "good.yaml": True, "inner/zero.json": True,
    }  # fmt: skip
    (problem,) = answer["files"]["bad.yaml"]["problems"]
    assert problem == {
        "message": "unknown key; did you mean lora_r?",
        "path": "peft.lora_rr",
        "place": "bad.yaml:3",
        "code": "unknown_key",
    }
    assert "training.eval_steps: has no effect" in answer["files"]["good.yaml"]["warnings"][0]


def test_json_of_a_wrong_command_and_of_the_schema(run_json: Callable[..., Any]) -> None:
    code, answer = run_json()
    assert (code, answer["status"]) == (2, "bad_input")
    code, answer = run_json("--schema")
    assert code == 0
    assert "properties" in answer


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_chinese_text_on_a_terminal_that_cannot_show_it(environment: dict[str, str], folder: Path) -> None:
    import os

    (folder / "cn.yaml").write_text(GOOD + "情感: 1\n", encoding="utf-8")
    command = [sys.executable, str(ROOT / "validate_config.py"), "cn.yaml"]
    done = subprocess.run(command, capture_output=True, cwd=folder, env={**os.environ, **environment})
    assert done.returncode == 1
    assert b"unknown section" in done.stdout
    assert b"Traceback" not in done.stderr


def test_a_closed_pipe_gives_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} {ROOT / 'validate_config.py'} good.yaml --show --all . 2>err | true"
    subprocess.run(["bash", "-c", command], cwd=folder, check=True)
    assert "Traceback" not in (folder / "err").read_text()
    assert "BrokenPipe" not in (folder / "err").read_text()


def test_requirements_this_machine_lacks_are_warnings(
    validate: Callable[..., Answer], run_json: Callable[..., Any]
) -> None:
    answer = validate("good.yaml", "training.report_to=wandb")
    said = "command line  training.report_to: wandb needs a package that is not installed; run pip install wandb"
    assert answer.code == 0
    assert f"  [6/6] this machine: ok\n        warning (this machine): {said}\n" in answer.out
    code, found = run_json("good.yaml", "training.report_to=wandb")
    assert code == 0
    assert said in found["files"]["good.yaml"]["warnings"]
