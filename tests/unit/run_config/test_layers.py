"""The extended file, the file and the command line: each overrides the one before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from utils.core.errors import ConfigError
from utils.run_config import load_run_config
from utils.run_config.layers import read_layers

Write = Callable[..., Path]


def test_a_file_overrides_what_it_extends_and_both_locations_are_kept(write_run: Write) -> None:
    base = write_run("base", training={"learning_rate": 1e-4, "optim": "sgd"}, seed=1)
    file = write_run("run", bare=True, extends="base.yaml", training={"learning_rate": 2e-4})
    document, notices = read_layers(file, ["seed=3"])
    assert document.data["training"] == {"output_dir": "out", "learning_rate": 2e-4, "optim": "sgd"}
    assert document.data["seed"] == 3
    assert "extends" not in document.data
    assert document.source == str(file)
    assert document.place_of(("training", "learning_rate")).startswith(f"{file}:")
    assert document.place_of(("training", "optim")).startswith(f"{base}:")
    assert document.place_of(("seed",)) == "command line"
    assert notices == []


def test_defaults_come_from_the_named_file(write_run: Write) -> None:
    write_run("base", training=None)
    config = load_run_config(write_run("child", bare=True, extends="base.yaml", seed=1))
    assert config.task_name == "child"
    assert config.training.output_dir == "./outputs/child"


def test_extends_is_relative_to_the_files_folder(write_run: Write, tmp_path: Path) -> None:
    write_run("base")
    (tmp_path / "inner").mkdir()
    file = tmp_path / "inner" / "run.yaml"
    file.write_text("extends: ../base.yaml\nseed: 5\n")
    assert load_run_config(file).seed == 5


@pytest.mark.parametrize(
    ("extends", "sentence"),
    [
        ("nowhere.yaml", "no such file"),
        (".", "no such file"),
        (None, "must be the path of another YAML file"),
        (["base.yaml"], "must be the path of another YAML file"),
        ("run.yaml", "extends another file itself; only one level is allowed"),
        ("middle.yaml", "extends another file itself; only one level is allowed"),
    ],
)
def test_refused_extends(extends: object, sentence: str, write_run: Write, tmp_path: Path) -> None:
    write_run("base")
    write_run("middle", bare=True, extends="base.yaml")
    file = tmp_path / "run.yaml"
    file.write_text(f"seed: 1\nextends: {'null' if extends is None else extends}\n")
    with pytest.raises(ConfigError) as caught:
        read_layers(file)
    assert str(caught.value).startswith(f"{file}:2  extends: ")
    assert sentence in str(caught.value)


def test_only_a_file_can_extend(write_run: Write) -> None:
    with pytest.raises(ConfigError, match="command line  extends: only a file can extend another"):
        read_layers(write_run(), ["extends=other.yaml"])


@pytest.mark.parametrize(
    "peft", [{"method": "lora", "lora_r": 8, "target_modules": ["query"]}, {"r": 8, "target_modules": ["query"]}]
)
@pytest.mark.parametrize("method", ["none", "head-only", "null"])
def test_switching_the_method_drops_its_keys_with_a_notice(
    peft: dict[str, object], method: str, write_run: Write
) -> None:
    file = write_run(peft=None)
    file.write_text(file.read_text() + f"peft: {peft}\n".replace("'", ""))
    config = load_run_config(file, [f"peft.method={method}"])
    assert config.peft.method == method.replace("null", "none")
    (notice,) = config.notices
    assert notice.startswith("command line  peft.method: now ")
    assert "left out, for lora only: " in notice
    assert "peft.target_modules" in notice


def test_target_modules_do_not_carry_over_to_norm_training(write_run: Write) -> None:
    file = write_run(peft={"method": "lora", "target_modules": "all-linear"})
    for method in ("ln_tuning", "shadow"):
        config = load_run_config(file, [f"peft.method={method}"])
        assert config.peft.model_dump()["target_modules"] is None
        assert f"now {method}; left out, for lora only: peft.target_modules" in config.notices[0]
    named = load_run_config(file, ["peft.method=ln_tuning", "peft.target_modules=[norm]"])
    assert not any("left out" in notice for notice in named.notices)
    assert load_run_config(file, ["peft.method=vera"]).peft.model_dump()["target_modules"] == "all-linear"
    with pytest.raises(ConfigError, match="target_modules: ln_tuning is for norms, and all-linear names none"):
        load_run_config(file, ["peft.method=ln_tuning", "peft.target_modules=all-linear"])


def test_unknown_keys_remain_errors_when_the_method_is_switched(write_run: Write) -> None:
    with pytest.raises(ConfigError, match="lora_rr: unknown key"):
        load_run_config(write_run(peft={"lora_r": 8, "lora_rr": 8}), ["peft.method=none"])
    with pytest.raises(ConfigError, match=r"command line  peft\.lora_r: unknown key"):
        load_run_config(write_run(), ["peft.method=none", "peft.lora_r=8"])


def test_a_file_can_switch_the_method_of_the_file_it_extends(write_run: Write) -> None:
    write_run("base", peft={"lora_r": 8})
    config = load_run_config(write_run("run", bare=True, extends="base.yaml", peft={"method": "none"}))
    assert config.peft.method == "none"
    assert "peft.lora_r" in config.notices[0]


def test_the_same_method_in_another_spelling_drops_nothing(write_run: Write) -> None:
    config = load_run_config(write_run(peft={"lora_r": 3}), ["peft.method=LoRA"])
    assert config.peft.model_dump()["lora_r"] == 3
    assert config.notices == ()


def test_switching_the_dataset_drops_keys_of_the_old_one(write_run: Write) -> None:
    file = write_run(
        dataset={"name": "custom", "path": "a/b", "label_names": ["x", "y"], "max_length": 64, "subset": "s"}
    )
    config = load_run_config(file, ["dataset.name=glue", "dataset.subset=rte"], files=False)
    assert config.dataset.subset == "rte"
    assert config.dataset.max_length == 64
    assert "dataset.label_names" in config.notices[0]


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("training.learning_rate=1e-4", ("training", "learning_rate"), 1e-4),
        ("dataset.max_train_samples=null", ("dataset", "max_train_samples"), None),
        ("peft.target_modules=[query, value]", ("peft", "target_modules"), ["query", "value"]),
        ("model.quantization={bits: 8}", ("model", "quantization", "bits"), 8),
        ("model.quantization=nf4", ("model", "quantization", "type"), "nf4"),
        ("training.evaluation_strategy=no", ("training", "eval_strategy"), "no"),
    ],
)
def test_overrides_are_applied(word: str, path: tuple[str, ...], value: object, write_run: Write) -> None:
    found = load_run_config(write_run(dataset={"max_train_samples": 7}), [word]).to_dict()
    for key in path:
        found = found[key]
    assert found == value


def test_a_wrong_override_is_located_on_the_command_line(write_run: Write) -> None:
    file = write_run(peft={"lora_dropout": 2})
    with pytest.raises(ConfigError) as caught:
        load_run_config(file, ["peft.lora_r=many", "learning_rate=1", "training.optim.x=1"])
    places = [(problem.place, problem.path) for problem in caught.value.problems]
    assert places[0][1] == "peft.lora_dropout"
    assert places[0][0].startswith(f"{file}:")
    assert sorted(places[1:]) == [
        ("command line", "learning_rate"), ("command line", "peft.lora_r"), ("command line", "training.optim"),
    ]  # fmt: skip


def test_switching_the_method_warns_about_a_kept_learning_rate(write_run: Write) -> None:
    file = write_run(training={"learning_rate": 3e-3})
    (notice,) = load_run_config(file, ["peft.method=ia3"]).notices
    kept = "training.learning_rate stays 0.003; ia3's own is 0.03 (training.learning_rate=null)"
    assert notice == f"command line  peft.method: {kept}"
    for words in (["peft.method=lora"], ["peft.method=none"], ["peft.method=ia3", "training.learning_rate=0.1"]):
        assert "stays" not in " ".join(load_run_config(file, words).notices)


def test_no_warning_about_a_learning_rate_set_with_the_switch(write_run: Write) -> None:
    write_run("base", training={"learning_rate": 3e-3})
    file = write_run("run", bare=True, extends="base.yaml", peft={"method": "ia3"})
    (notice,) = load_run_config(file).notices
    assert notice.startswith(f"{file}:")
    assert "stays 0.003" in notice
    assert load_run_config(file, ["training.learning_rate=0.1"]).notices == ()
    assert load_run_config(file, ["seed=3"]).notices == (notice,)
    (other,) = load_run_config(file, ["peft.method=prompt-tuning"]).notices
    assert "prompt-tuning's own is 0.03" in other


@pytest.mark.parametrize(("method", "rate"), [("ia3", 3e-2), ("lora", None)])
def test_a_null_learning_rate_is_the_methods_own(method: str, rate: float | None, write_run: Write) -> None:
    file = write_run(training={"learning_rate": 3e-3})
    config = load_run_config(file, [f"peft.method={method}", "training.learning_rate=null"])
    assert config.arguments.get("learning_rate") == rate
    assert "stays" not in " ".join(config.notices)
    written = load_run_config(write_run(peft={"method": method}, training={"learning_rate": None}))
    assert written.arguments.get("learning_rate") == rate


@pytest.mark.parametrize(("below", "above"), [("lr", "learning_rate"), ("learning_rate", "lr"), ("lr", "lr")])
def test_a_null_learning_rate_under_either_name(below: str, above: str, write_run: Write) -> None:
    file = write_run(training={below: 3e-3})
    assert "stays 0.003" in " ".join(load_run_config(file, ["peft.method=ia3"]).notices)
    config = load_run_config(file, ["peft.method=ia3", f"training.{above}=null"])
    assert config.arguments["learning_rate"] == 3e-2
    assert "stays" not in " ".join(config.notices)


def test_data_files_override_those_of_the_extended_file(tmp_path: Path) -> None:
    base = "task_type: CAUSAL_LM\nmodel: {name_or_path: a/b}\ndataset: {name: custom, path: of/base}\n"
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "over.yaml").write_text("extends: base.yaml\ndataset: {name: of/over}\n")
    assert load_run_config(tmp_path / "over.yaml").dataset.path == "of/over"
    assert load_run_config(tmp_path / "base.yaml", ["dataset.name=of/line"]).dataset.path == "of/line"
    assert load_run_config(tmp_path / "base.yaml", ["dataset.path=of/line"]).dataset.path == "of/line"
    (tmp_path / "copy.yaml").write_text(base.replace("name: custom", "name: hub/set"))
    assert load_run_config(tmp_path / "copy.yaml").dataset.path == "of/base", "a copy of a set, in one file"
