"""The examples of docs/extending.md are run unchanged, from a user's folder."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from tests.commands.in_process import command
from utils.api import Run, load_run
from utils.core import registry
from utils.core.errors import ConfigError, UserError
from utils.generation.backend import generate_batches
from utils.metrics.metric import load_metric
from utils.modeling.consent import Consent
from utils.run_config import load_run_config
from utils.run_config.extensions import add_extension

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"```python\n# (my_lab/\S+\.py)\n(.*?)```", re.DOTALL)


def edit(file: Path, old: str, new: str) -> None:
    source = file.read_text()
    assert old in source
    file.write_text(source.replace(old, new))


def forget(folder: Path) -> None:
    """Unload the plugins, so that a later test or another copy of the folder starts fresh."""
    for each in [*registry._added]:
        registry.remove_folder(each)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Path]:
    for name, source in EXAMPLE.findall((ROOT / "docs" / "extending.md").read_text("utf-8")):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    yield tmp_path / "my_lab"
    forget(tmp_path / "my_lab")


@pytest.fixture
def classifier(lab: Path, make_config: Any) -> Path:
    """The file of a run with a custom method, optimizer, schedule and callback."""
    file: Path = make_config.write(
        "bert",
        extensions=["my_lab"],
        peft={"method": "orthogonal_lora", "lora_r": 4, "init_gain": 0.5},
        training__optim="sign_sgd",
        training__sign_momentum=0.5,
        training__lr_scheduler_type="staircase",
        training__stair_steps=2,
        training__callbacks=["my_lab.recording:Recorder"],
        training__logging_steps=1,
        training__learning_rate=1e-3,
        training__metric_for_best_model="balanced_accuracy",
        training__report_to="none",
        training__max_steps=4,
    )
    return file


def test_a_method_an_optimizer_a_schedule_a_callback_and_a_metric_of_labels(classifier: Path, lab: Path) -> None:
    run = Path(command("train", "--config", classifier)["output_dir"])
    logs = [log for log in json.loads((run / "trainer_state.json").read_text())["log_history"] if "loss" in log]
    assert [log["learning_rate"] for log in logs] == [1e-3, 1e-3, 5e-4, 5e-4], "the staircase"
    assert (run / "losses.txt").read_text().splitlines() == [f"{log['step']} {log['loss']:.4f}" for log in logs]
    weights = load_file(run / "final_model" / "adapter_model.safetensors")
    b = next(each for name, each in weights.items() if ".lora_B." in name)
    steps = (b / 5e-4).round(decimals=3)
    assert (steps == steps.round()).all(), "each step moves every weight by plus or minus the rate"
    assert b.abs().max() <= 3e-3 + 1e-9
    record = json.loads((run / "results.json").read_text())
    answers = [json.loads(line) for line in (run / "eval_validation" / "predictions.jsonl").read_text().splitlines()]
    recalls = [
        sum(each["prediction"] == label for each in rows) / len(rows)
        for label in {each["label"] for each in answers}
        for rows in [[each for each in answers if each["label"] == label]]
    ]
    assert record["metrics"]["balanced_accuracy"] == pytest.approx(sum(recalls) / len(recalls))
    assert record["headline"] == "balanced_accuracy"
    assert record["baseline"]["balanced_accuracy"] == 1 / len(recalls)
    assert len(record["interval"]["balanced_accuracy"]) == 2
    assert yaml.safe_load((run / "run.yaml").read_text())["extensions"] == ["extensions/my_lab"]
    assert json.loads((run / "provenance.json").read_text())["extensions"] == {"my_lab": registry.hash_folder(lab)}


def test_a_run_works_without_its_extensions_folder(classifier: Path, lab: Path, tmp_path: Path) -> None:
    run = Path(command("train", "--config", classifier)["output_dir"])
    ask = ("--run", run, "--input_text", "good")
    answer = command("inference", *ask, "--allow_extensions")["answers"]
    forget(lab)
    shutil.rmtree(lab)
    with pytest.raises(UserError, match=r"the code in extensions/my_lab would run; .* add --allow_extensions"):
        command("inference", *ask)
    assert command("inference", *ask, "--allow_extensions")["answers"] == answer
    assert (run / "extensions" / "my_lab" / "adapters" / "orthogonal_lora.py").is_file()
    alone = tmp_path / "alone"
    shutil.copytree(run / "final_model", alone)
    with pytest.raises(ConfigError, match="copy extensions/ of the run's folder beside this file"):
        command("inference", "--run", alone, "--input_text", "good", "--allow_extensions")
    merged = tmp_path / "merged"
    command("merge_adapter", "--run", run, "--output", merged, "--allow_extensions")
    found = command("inference", "--run", merged, "--input_text", "good", "--allow_extensions")["answers"]
    assert found[0]["label"] == answer[0]["label"]
    forget(run)
    (run / "extensions" / "my_lab" / "adapters" / "orthogonal_lora.py").open("a").write("\n\ndef merge(model): ...\n")
    with pytest.raises(UserError, match="merge of orthogonal_lora returned None"):
        command("merge_adapter", "--run", run, "--output", tmp_path / "again", "--allow_extensions")


def test_code_of_a_run_folder_needs_consent(classifier: Path, lab: Path) -> None:
    config = load_run_config(classifier)
    run = Path(command("train", "--config", classifier)["output_dir"])
    own = Run(run, config, load_run(run, allow_extensions=True).record, Consent.of_config(config))
    answers = own.predict(["good"])
    forget(lab)
    with pytest.raises(ConfigError, match="the code in extensions/my_lab would run"):
        load_run(run)
    assert load_run(run, allow_extensions=True).predict(["good"]) == answers
    forget(lab)
    (run / "final_model" / "README.md").unlink()  # as left by a version without model cards
    with pytest.raises(ConfigError, match="the code in extensions/my_lab would run"):
        command("utils.runs.push", run, "me/run", "--dry-run")
    assert "my_lab" not in sys.modules
    assert command("utils.runs.push", run, "me/run", "--dry-run", "--allow_extensions")["pushed"]["files"]


def test_changed_code_is_another_run(classifier: Path, lab: Path) -> None:
    run = Path(command("train", "--config", classifier)["output_dir"])
    fingerprint = load_run_config(classifier).fingerprint()
    (lab / "optimizers" / "sign_sgd.py").open("a").write("# changed\n")
    assert load_run_config(classifier).fingerprint() != fingerprint
    with pytest.raises(UserError, match="its extensions have changed"):
        command("train", "--config", classifier)
    assert not list(run.parent.glob("run_*")), "nothing was renamed"
    other = Path(command("train", "--config", classifier, f"training.output_dir={run}_2", "seed=7")["output_dir"])
    forget(lab)
    compared = command("utils.runs.compare", run, other, "--allow_extensions", "--json")
    assert compared["configuration"] == {"seed": [42, 7], "training.data_seed": [42, 7]}


def test_an_edited_copy_is_reported(classifier: Path, lab: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Path(command("train", "--config", classifier)["output_dir"])
    copy = run / "extensions" / "my_lab"
    forget(lab)
    (copy / "recording.py").open("a").write("# edited\n")
    command("inference", "--run", run, "--input_text", "good", "--allow_extensions")
    assert caplog.text.count(f"{copy} was edited since the run was trained") == 1
    forget(copy)
    command("train", "--config", classifier, "--resume", "training.max_steps=5")
    (aside,) = copy.parent.glob("my_lab.old_*")
    assert f"{copy} was edited, and is now {aside}: the run goes on with {lab}" in caplog.text
    assert (aside / "recording.py").read_text().endswith("# edited\n")
    assert (copy / "recording.py").read_text() == (lab / "recording.py").read_text()


def write_counting(make_sft: Any, folder: Path) -> Path:
    """Write a run of the folder's dataset, metric, penalty and backend, with its rows."""
    words = ["tree", "house", "cat", "bicycle", "on", "garden", "river", "sun"]
    rows = "".join(json.dumps({"word": word, "letters": len(word)}) + "\n" for word in words)
    (folder / "words").mkdir()
    for split in ("train", "test"):
        (folder / "words" / f"{split}.jsonl").write_text(rows)
    file: Path = make_sft(
        extensions=["my_lab"],
        dataset={"name": "counting", "path": str(folder / "words"), "allow_leakage": True},
        peft={"method": "shrinking_lora", "lora_r": 4, "target_modules": "all-linear"},
        generation={"backend": "parrot"},
        evaluation={"at_end": True},
        training__max_steps=3,
        training__report_to="none",
    ).source
    return file


def test_a_dataset_a_metric_a_penalty_and_a_backend(lab: Path, make_sft: Any, tmp_path: Path) -> None:
    run = Path(command("train", "--config", write_counting(make_sft, tmp_path))["output_dir"])
    record = json.loads((run / "results.json").read_text())
    assert record["evaluation"]["counting"]["near_number"] == 1.0, "the parrot counts right"
    logs = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert all(log["size_of_b"] >= 0 for log in logs if "loss" in log)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"training__sign_momentum": 1.5},
            "training.sign_momentum: 1.5 is not allowed; use a number from 0",
        ),
        ({"training__optim": "sign_sdg"}, "did you mean sign_sgd"),
        ({"extensions": ["my_lub"]}, "extensions: .*my_lub: no such folder"),
        ({"extensions": "my_lab"}, r"extensions: takes a list of folders: \[my_lab\]"),
        ({"training__optim": "adamw_torch"}, "sign_momentum belongs to training.optim: sign_sgd"),
    ],
)
def test_mistakes_are_reported_with_their_location(
    lab: Path, make_config: Any, changed: dict[str, Any], sentence: str
) -> None:
    keys = {"extensions": ["my_lab"], "training__optim": "sign_sgd", "training__sign_momentum": 0.5, **changed}
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_run_config(make_config.write("bert", **keys))
    assert "tiny.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "source", "sentence"),
    [
        ("optimizers/broken.py", "class Config:\n  x = (\n", "optimizers/broken.py:2: SyntaxError"),
        ("__init__.py", "x = (\n", "__init__.py:1: SyntaxError"),
        ("__init__.py", "\n1 / 0\n", "__init__.py:2: ZeroDivisionError"),
        ("optimizers/broken.py", "import nowhere\nclass Config: ...\n", "broken.py:1: ModuleNotFoundError: No module"),
        ("optimizers/broken.py", "class Config: ...\n", "defines no build_optimizer"),
        ("optimizers/Upper.py", "class Config: ...\n", "file is called by small letters, digits and _: upper"),
        ("optimizers/twice.py", "{plain}    learning_rate: float = 1.0\n", "learning_rate is a key of training:"),
        ("schedules/twice.py", "{schedule}    muon_momentum: float = 1.0\n", "is already a setting of optimizers/muon"),
        ("adapters/other.py", "from utils.adapters.lora import *\nclass Config(Config): ...\n",
         'its Config needs method: Literal["other"] = "other"'),
        ("optimizers/typed.py", "{plain}    size: 'Nope' = 1\n", "typed: its Config has a field of the type Nope"),
        ("optimizers/typed.py", "{plain}    size: int = 'big'\n", "typed: size: its default 'big' is not allowed"),
        ("metrics/many.py", "TABLE = dict(a=1)\n", "metrics/many.py:1: TABLE holds plug-ins; write it out"),
        ("metrics/many.py", "TABLE = {\n", "metrics/many.py:1: SyntaxError: '{' was never closed"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_plugin_is_named(
    tmp_path: Path, make_config: Any, file: str, source: str, sentence: str
) -> None:
    head = "from utils.config.section import Section\ndef build_{}(*_): ...\nclass Config(Section):\n"
    source = source.replace("{plain}", head.format("optimizer")).replace("{schedule}", head.format("schedule"))
    (tmp_path / "my_lab" / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "my_lab" / file).write_text(source)
    with pytest.raises(ConfigError) as caught:
        load_run_config(make_config.write("bert", extensions=["my_lab"]))
    assert sentence in str(caught.value)
    assert "my_lab" not in sys.modules, "a second attempt starts over"


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("recording.py", "import Path", "import (Path", "my_lab/recording.py:3: SyntaxError: '(' was never closed"),
        (
            "recording.py",
            '"""Records the loss."""',
            "def __init__(self, a): ...",
            "cannot be created without arguments",
        ),
        ("schedules/staircase.py", "return StepLR", "StepLR", "returned NoneType, not a torch scheduler"),
        ("adapters/orthogonal_lora.py", "return adapted", "pass", "attach of orthogonal_lora returned None"),
        ("adapters/orthogonal_lora.py", "def attach", "def load(*_): ...\n\n\ndef attach",
         "load of orthogonal_lora returned None"),
        ("adapters/orthogonal_lora.py", "def attach", "training_hooks = dict\n\n\ndef attach", "not TrainingHooks"),
        ("metrics/balanced_accuracy.py", "return float", "return str", "balanced_accuracy returned '0."),
        ("metrics/balanced_accuracy.py", "score(predictions, references):", "score(predictions):",
         "score is called with"),
        ("adapters/orthogonal_lora.py", "attach(model, config, context):", "attach(model):",
         "orthogonal_lora: attach is called with (model, config, context): too many positional arguments"),
        ("schedules/staircase.py", "args, config):", "args, config, more):",
         "build_schedule is called with (optimizer, "),
    ],
)  # fmt: skip
def test_plugins_with_wrong_signatures_or_results(
    classifier: Path, lab: Path, file: str, old: str, new: str, sentence: str
) -> None:
    edit(lab / file, old, new)
    with pytest.raises(UserError) as caught:
        command("train", "--config", classifier)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("datasets/counting.py", "answer=f\" {row['letters']}\"", 'answer=row["letters"]', "whose fields are texts"),
        ("datasets/counting.py", "def describe_instructions", "def describe", "defines neither describe_instructions"),
        (
            "datasets/counting.py",
            '"near_number"',
            '"near_numbr"',
            "there is no metric near_numbr, which counting names",
        ),
        ("metrics/near_number.py", "return 1 /", 'return "good" #', "near_number returned 'good' for a row"),
        ("adapters/shrinking_lora.py", "return sum(", 'return "big"; sum(', "compute_penalty returned 'big'"),
        ("generation/backends/parrot.py", "def stream", "def streams", "backends/parrot: defines no stream"),
        ("generation/backends/parrot.py", "batch, numbers=None", "batch",
         "generate_batch is called with (self, prompts, "),
        ("metrics/near_number.py", "(prediction, reference):", "(prediction):",
         "near_number.py:12: TypeError: score_row is"),
        ("datasets/counting.py", "return InstructionSet", "InstructionSet",
         "counting describes its rows by None; the function has to return InstructionSet(...)"),
        ("datasets/counting.py", "instructions(config):", "instructions():",
         "describe_instructions is called with (config)"),
    ],
)  # fmt: skip
def test_invalid_rows_and_scores_of_plugins(
    lab: Path, make_sft: Any, tmp_path: Path, file: str, old: str, new: str, sentence: str
) -> None:
    edit(lab / file, old, new)
    with pytest.raises(UserError) as caught:
        command("train", "--config", write_counting(make_sft, tmp_path))
    assert sentence in str(caught.value)


def test_methods_of_a_backend_may_be_static(lab: Path) -> None:
    file = lab / "generation" / "backends" / "parrot.py"
    plain = "    def explain_refusal(self, num_tokens):"
    assert plain in file.read_text()
    file.write_text(file.read_text().replace(plain, "    @staticmethod\n" + plain.replace("self, ", "")))
    add_extension(lab)


def test_scores_outside_of_the_range_and_missing_answers(lab: Path) -> None:
    source = (lab / "metrics" / "near_number.py").read_text()
    (lab / "metrics" / "near_number.py").write_text(source.replace("return 1 /", "return 9 /"))
    registry.add_folder(lab)
    score_rows = load_metric("near_number").score_rows
    assert score_rows is not None
    with pytest.raises(UserError, match="near_number gave 9, outside of its range of 0 to 1"):
        score_rows(["4"], ["4"])
    backend: Any = SimpleNamespace(generate_batch=lambda *_: [])
    with pytest.raises(UserError, match="0 answers to a batch of 2 rows"):
        list(generate_batches(backend, [[1], [2]], [[0, 1]]))


def test_a_folder_in_the_working_directory_does_not_hide_the_copy(
    classifier: Path, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python may search a folder of that name for modules, as it does beside train.py."""
    run = Path(command("train", "--config", classifier)["output_dir"])
    forget(lab)
    monkeypatch.syspath_prepend(str(lab.parent))
    (lab / "recording.py").write_text("# another one by now\n")
    assert command("inference", "--run", run, "--input_text", "good", "--allow_extensions")["answers"]


def test_every_kind_of_plugin_has_its_example() -> None:
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    shown = {Path(name).parent.relative_to("my_lab").as_posix().replace("/", ".") for name, _ in EXAMPLE.findall(text)}
    kinds = set(registry._MARKERS) - {"tasks", "benchmark.launchers"}
    assert kinds <= shown, "tasks have their own test, and launchers need a scheduler"
