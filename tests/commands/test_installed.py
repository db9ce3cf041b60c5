"""The installed package: the wheel holds `lora_ns` and no `utils`, and its one command trains in an empty folder."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import tomllib

from utils.cli import shipped
from utils.cli.lora_ns import _MODULES, write_help
from utils.core import project
from utils.core.errors import ConfigError, UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build and install the wheel with this environment's libraries; return the folder of its commands."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    if subprocess.run([sys.executable, "-c", "import setuptools"], check=False).returncode:
        pytest.skip("setuptools is not installed here, and building without it would fetch it")
    subprocess.run(built, check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    packages = next((folder / "env").glob("lib/python*/site-packages"))
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
    python = folder / "env" / "bin" / "python"
    subprocess.run(
        [*pip[:1], "-m", "pip", "--python", str(python), *pip[3:], "install", "--no-deps", wheel], check=True
    )
    return python.parent


def call(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without this project on Python's path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([*map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    lora_ns = installed / "lora-ns"
    assert call(tmp_path, lora_ns, "--version").stdout.startswith(f"lora-ns {project.VERSION}")
    assert call(tmp_path, installed / "python", "-c", "import utils").returncode == 1

    trained = call(tmp_path, lora_ns, "train", "quickstart", "training.num_train_epochs=1", "training.report_to=none")
    assert trained.returncode == 0, trained.stderr
    assert "lora-ns infer --run outputs/quickstart" in trained.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]

    answered = call(tmp_path, lora_ns, "infer", "--run", "outputs/quickstart", "--input_text", "The dog sleeps.")
    assert json.loads(answered.stdout)["label"] == "acceptable"
    merged = call(tmp_path, lora_ns, "merge", "--run", "outputs/quickstart", "--output", "merged")
    assert merged.returncode == 0, merged.stderr
    python = "import lora_ns; print(lora_ns.load_run('outputs/quickstart').predict(['The dog sleeps.'])[0]['label'])"
    assert call(tmp_path, installed / "python", "-c", python).stdout.strip() == "acceptable"

    suite = call(tmp_path, lora_ns, "benchmark", "quickstart", "training.num_train_epochs=1", "--seeds", "1",
                 "--task", "few_rows", "--method", "head-only")  # fmt: skip
    assert suite.returncode == 0, suite.stderr
    assert call(tmp_path, lora_ns, "validate", "--all").returncode == 0
    assert call(tmp_path, lora_ns, "copy", "template_sft", "my_run.yaml").returncode == 0
    assert call(tmp_path, lora_ns, "copy", "examples/merge.sh").returncode == 0
    by_script = call(tmp_path, "./merge.sh", "outputs/quickstart", "merged_by_script")
    assert by_script.returncode == 0, by_script.stderr
    assert call(tmp_path, lora_ns, "validate", "my_run.yaml", "configs/quickstart.yaml").returncode == 0
    assert "lora-ns evaluate" in call(tmp_path, lora_ns, "docs", "serving").stdout


@pytest.mark.slow
def test_errors_name_the_command_that_was_called(installed: Path, tmp_path: Path) -> None:
    wrong = call(tmp_path, installed / "lora-ns", "infer", "--run", "nowhere")
    assert wrong.returncode == 2
    assert ".py" not in wrong.stderr
    unknown = call(tmp_path, installed / "lora-ns", "trian")
    assert unknown.returncode == 2
    assert "no command is called trian" in unknown.stderr


def test_the_command_offers_what_the_scripts_do(tmp_path: Path) -> None:
    shown = call(ROOT, sys.executable, "-m", "utils", "validate", "quickstart", "--show")
    assert shown.returncode == 0, shown.stderr
    assert "name_or_path:" in shown.stdout
    assert call(ROOT, sys.executable, "train.py", "--version").stdout == f"lora-ns {project.VERSION}\n"


def test_shipped_files_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert project.find_config("quickstart") == ROOT / "configs" / "quickstart.yaml"
    assert project.find_config("quickstart", "configs/benchmarks").parent.name == "benchmarks"
    assert project.find_config("configs/quickstart.yaml") == ROOT / "configs" / "quickstart.yaml"
    (tmp_path / "quickstart").write_text("mine")
    assert project.find_config("quickstart") == Path("quickstart"), "a user's own file wins"
    assert project.find_config("nothing.yaml") == Path("nothing.yaml")


def test_a_shipped_file_can_be_copied(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    words = (sys.executable, "-m", "utils", "copy")
    assert call(ROOT, *words, "benchmarks/quickstart", own).returncode == 0
    assert f"\nbase: {ROOT / 'configs' / 'quickstart.yaml'}\n" in own.read_text("utf-8")
    again = call(ROOT, *words, "quickstart", own)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    assert "template_sft  " in call(ROOT, *words).stdout
    assert "did you mean template_sft?" in call(ROOT, *words, "template_sf").stderr


def test_copied_scripts_run_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parser = shipped.build("copy")
    names = [name for name in shipped.copy_file(parser.parse_args([]))["names"] if name.startswith("examples/")]
    assert len(names) == 9
    for name in names:
        shipped.copy_file(parser.parse_args([name]))
    for file in tmp_path.iterdir():
        text = file.read_text("utf-8")
        subprocess.run(["bash", "-n", file], check=True)
        places = [word for word in re.findall(rf"{ROOT}[\w./-]*[\w/]", text) if "accelerate" not in word]
        assert all(map(os.path.exists, places)), places
        assert not re.search(r"dirname|\.venv/bin/(?!python)|[ \"]examples/", text.replace(f"{sys.prefix}/bin/", ""))
    os.environ["PYTHON"] = "echo"
    merged = call(tmp_path, "./merge.sh", "outputs/mine").stdout
    assert merged == f"{ROOT}/merge_adapter.py --run outputs/mine --output outputs/mine_merged --overwrite\n"
    monkeypatch.setattr(project, "IS_INSTALLED", True)
    assert project.call_command("train.py") == "-m utils train"


def test_pages_are_printed_by_name() -> None:
    words = (sys.executable, "-m", "utils", "docs")
    assert call(ROOT, *words, "serving").stdout == (ROOT / "docs" / "serving.md").read_text("utf-8")
    assert "serving  " in call(ROOT, *words).stdout


def test_texts_name_commands_and_pages_as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "IS_INSTALLED", True)
    text = "accelerate launch --num_processes 2 train.py, python train.py (docs/serving.md)"
    called = "accelerate launch --num_processes 2 -m lora_ns train, lora-ns train (lora-ns docs serving)"
    assert project.as_called(text) == called


def test_a_command_that_cannot_run_explains_why() -> None:
    for words, told in (
        (["trian"], "did you mean train?"),
        (["train", "--plan"], "FILE --config is required"),
    ):
        answer = call(ROOT, sys.executable, "-m", "utils", *words)
        assert (answer.returncode, told in answer.stderr) == (2, True), answer.stderr


@pytest.mark.parametrize("width", [60, 120])
def test_help_fits_the_terminal_and_names_the_command(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    scripts = [(name.removesuffix(".py"), name) for name in project.COMMANDS.values()]
    modules = [(f"utils.{_MODULES[name]}", f"python -m utils {name}") for name in _MODULES]
    helps = [write_help()]
    for module, called in scripts + modules:
        words = [called.rpartition(" ")[2]] if module.endswith("shipped") else []
        helps.append(importlib.import_module(module).build(*words).format_help())
        assert helps[-1].startswith(f"usage: {called} "), called
    for line in "\n".join(helps).splitlines():
        assert len(line) <= width or line.startswith("  ") or " " not in line.strip(), line
    plan = importlib.import_module("utils.planning.command").build().format_help()
    assert re.findall(r"^  (--\w+)", plan, re.M) == ["--json", "--version", "--config", "--card", "--probe", "--rate"]


def test_dependencies_are_those_of_requirements_txt() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = package["optional-dependencies"]
    declared = [*package["dependencies"], *extras["quantization"], *extras["deepspeed"], *extras["chinese"]]
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    assert sorted(each.replace("'", '"') for each in declared) == sorted(each.replace("'", '"') for each in required)
    named = {name for words in extras["all"] for name in re.findall(r"[a-z]+", words.partition("[")[2])}
    assert named == set(extras) - {"all", "trackers", "docs"}, "every user needs at most one tracker"


def test_the_library_is_importable_by_its_installed_name() -> None:
    project.alias_installed_name()
    mine, installed = (importlib.import_module(f"{name}.adapters.adapter") for name in ("utils", "lora_ns"))
    assert mine is installed
    assert mine.__spec__ is not None
    assert mine.__spec__.name == "utils.adapters.adapter"


def test_the_python_api_trains_and_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lora_ns import load_config, load_run, train

    small = {"training.max_steps": 5, "training.output_dir": str(tmp_path / "run"), "training.report_to": "none"}
    small["training.early_stopping_threshold"] = 0.1
    run = train(load_config("quickstart", {**small, "dataset.max_eval_samples": 50}))
    assert run.record.status == "success"
    assert "training.early_stopping_threshold: has no effect" in capsys.readouterr().err
    again = load_run(tmp_path / "run")
    assert again.record.metrics == run.record.metrics
    assert again.predict(["The dog sleeps."]) == run.predict(["The dog sleeps."])
    rows = run.predict([{"sentence": "The dog sleeps."}])
    assert [each["label"] for each in rows] == [each["label"] for each in run.predict(["The dog sleeps."])]
    for wrong in ("The dog sleeps.", [["The dog sleeps."]], []):
        with pytest.raises(UserError, match="predict takes a list"):
            run.predict(wrong)
    with pytest.raises(UserError):
        load_run(tmp_path)
    with pytest.raises(ConfigError) as refused:
        load_config("quickstart", {"peft.lora_rr": 1})
    assert [problem.code for problem in refused.value.problems] == ["unknown_key"]


def test_there_is_one_version_number() -> None:
    assert f"\nversion: {project.VERSION}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("config", ["quickstart", "quickstart_dpo"])
def test_the_core_trains_without_its_extras(config: str, tmp_path: Path) -> None:
    extras = ("bitsandbytes", "deepspeed", "jieba", "math_verify", "matplotlib")
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({extras}))\n")
    words = [sys.executable, "train.py", "--config", f"configs/{config}.yaml", "training.max_steps=2",
             "training.report_to=none", f"training.output_dir={tmp_path / 'run'}"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
