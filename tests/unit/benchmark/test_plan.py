"""The plan: which runs there are, which setting wins, and errors found before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import validate_config
from utils.cli.command_line import run_cli
from utils.core.errors import ConfigError, UserError
from utils.run_config import load_run_config
from utils.run_config.kinds import find_kind

Plan = Callable[..., Any]
METHODS = "methods: {lora: {peft.method: lora}, full: {peft.method: none}}\n"


def names(plan: Any) -> list[str]:
    return [run.name for run in plan.runs]


def test_tasks_methods_grid_and_seeds_are_crossed_in_order(plan_of: Plan) -> None:
    plan = plan_of("tasks: {a: {}, b: {}}\n" + METHODS + "grid: {training.weight_decay: [0, 0.1]}\nseeds: [1, 2]\n")
    assert len(plan.runs) == 16
    assert names(plan)[:5] == [
        "a-lora-weight_decay=0-s1", "a-lora-weight_decay=0-s2", "a-lora-weight_decay=0.1-s1",
        "a-lora-weight_decay=0.1-s2", "a-full-weight_decay=0-s1",
    ]  # fmt: skip
    run = plan.runs[2]
    assert (run.task, run.method, run.seed, run.grid) == ("a", "lora", 1, {"training.weight_decay": 0.1})
    assert (run.config["seed"], run.config["training"]["weight_decay"]) == (1, 0.1)
    assert run.config["task_name"] == "a"
    assert run.folder == plan.output / "runs" / run.name
    assert run.config["training"]["output_dir"] == str(run.folder)
    assert run.log == plan.output / "logs" / f"{run.name}.log"
    assert run.metric == "matthews_correlation"
    assert len({each.fingerprint for each in plan.runs}) == 8, "the tasks set nothing"


LADDER = [
    ("run", "run: {training.learning_rate: 2.0}\n"),
    ("task", "tasks: {a: {training.learning_rate: 3.0}}\n"),
    ("method", "methods: {m: {training.learning_rate: 4.0}}\n"),
    ("task's method", "tasks: {a: {training.learning_rate: 3.0, methods: {m: {training.learning_rate: 5.0}}}}\n"),
    ("grid", "grid: {training.learning_rate: [6.0]}\n"),
    ("command line", ""),
]


@pytest.mark.parametrize("step", range(len(LADDER)), ids=[name for name, _ in LADDER])
def test_later_settings_win(step: int, plan_of: Plan) -> None:
    parts = {text.partition(":")[0]: text for _, text in LADDER[: step + 1] if text}
    parts.setdefault("tasks", "tasks: {a: {}}\n")
    overrides = ("training.learning_rate=7.0",) if LADDER[step][0] == "command line" else ()
    plan = plan_of("".join(parts.values()), head="", overrides=overrides)
    assert plan.runs[0].config["training"]["learning_rate"] == step + 2


def test_seeds_come_from_the_command_line_the_suite_or_the_base(plan_of: Plan) -> None:
    assert [run.seed for run in plan_of("tasks: {a: {}}\n").runs] == [42]
    assert names(plan_of("tasks: {a: {}}\n")) == ["a-lora-s42"]
    assert [run.seed for run in plan_of("tasks: {a: {}}\nseeds: [1, 2]\n").runs] == [1, 2]
    assert [run.seed for run in plan_of("tasks: {a: {}}\nseeds: [1, 2]\n", seeds=(7,)).runs] == [7]


def test_epochs_and_model_are_shortcuts_and_key_value_overrides_win(plan_of: Plan, tmp_path: Path) -> None:
    base = str(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    config = plan_of("tasks: {a: {training.num_train_epochs: 9}}\n", epochs=2, model=base).runs[0].config
    assert (config["training"]["num_train_epochs"], config["model"]["name_or_path"]) == (2, base)
    words = ("training.num_train_epochs=3",)
    assert plan_of("tasks: {a: {}}\n", epochs=2, overrides=words).runs[0].config["training"]["num_train_epochs"] == 3


def test_switching_the_method_drops_unknown_keys(plan_of: Plan) -> None:
    full = plan_of("tasks: {a: {}}\n" + METHODS).runs[1]
    assert full.config["peft"] == {"method": "none", "adapter_path": None, "init_seed": None}


def test_a_grid_key_a_method_lacks_makes_no_run(plan_of: Plan) -> None:
    plan = plan_of("tasks: {a: {}}\n" + METHODS + "grid: {peft.lora_r: [4, 8]}\n")
    assert names(plan) == ["a-lora-lora_r=4-s42", "a-lora-lora_r=8-s42", "a-full-s42"]
    assert plan.runs[2].grid == {}
    assert any("grid.peft.lora_r: not a key of full, which is run once without it" in each for each in plan.notices)
    with pytest.raises(ConfigError, match=r"s\.yaml:\d+  peft\.lora_rr: unknown key; did you mean lora_r\?"):
        plan_of("tasks: {a: {}}\ngrid: {peft.lora_rr: [4, 8]}\n")


def test_include_keeps_and_exclude_removes_runs(plan_of: Plan) -> None:
    text = "tasks: {a: {}, b: {}}\n" + METHODS + "seeds: [1, 2]\n"
    kept = plan_of(text + "include: [{task: a, seed: 1}, {method: full}]\nexclude: [{task: b, seed: [1, 3]}]\n")
    assert names(kept) == ["a-lora-s1", "a-full-s1", "a-full-s2", "b-full-s2"]
    unused = plan_of(text + "exclude: [{seed: 9}]\n")
    assert any("exclude: this entry fits no run" in each for each in unused.warnings)


def test_the_command_line_selects_without_changing_the_plan(plan_of: Plan) -> None:
    text = "tasks: {a: {}, b: {}}\n" + METHODS + "seeds: [1, 2]\n"
    plan = plan_of(text, tasks=("b",), methods=("full",))
    assert len(plan.runs) == 8
    assert [run.name for run in plan.wanted] == ["b-full-s1", "b-full-s2"]
    assert [run.name for run in plan_of(text, only=("a-*-s1", "b-lora-s2")).wanted] == [
        "a-lora-s1", "a-full-s1", "b-lora-s2",
    ]  # fmt: skip
    for wrong, sentence in (
        ({"tasks": ("c",)}, "--task c: the suite has no such task; use one of: a, b"),
        ({"methods": ("fulll",)}, "--method fulll: the suite has no such method; did you mean full?"),
        ({"only": ("x*",)}, "--only x*: no run has such a name"),
    ):
        with pytest.raises(UserError) as caught:
            plan_of(text, **wrong)
        assert sentence in str(caught.value)


def test_shards_partition_the_plan(plan_of: Plan) -> None:
    text = "tasks: {a: {}, b: {}}\nseeds: [1, 2, 3, 4, 5]\n"
    shards = [[run.name for run in plan_of(text, shard=(part, 3)).shard] for part in (1, 2, 3)]
    assert sorted(name for shard in shards for name in shard) == sorted(names(plan_of(text)))
    assert [len(each) for each in shards] == [4, 3, 3]
    assert shards[0] == [run.name for run in plan_of(text, shard=(1, 3)).shard]


def test_every_distinct_mistake_is_reported_once(plan_of: Plan) -> None:
    text = "tasks: {a: {}, b: {training.lr_scheduler: x}}\nmethods: {m: {peft.lora_r: 0}}\nseeds: [1, -1]\n"
    with pytest.raises(ConfigError) as caught:
        plan_of(text)
    lines = [str(problem).partition("s.yaml")[2] for problem in caught.value.problems]
    assert len(lines) == 3, lines
    assert "training.lr_scheduler: unknown key" in lines[0]
    assert lines[0].endswith("(in b-m-s1 and 1 more)")
    assert "peft.lora_r: 0 is not allowed" in lines[1]
    assert lines[2].endswith("(in a-m-s-1 and 1 more)")


@pytest.mark.parametrize(
    ("word", "remedy"),
    [("seed=3", "--seeds"), ("training.output_dir=x", "--output_dir"), ("output_dir=x", "--output_dir"),
     ("training.seed=3", "--seeds"), ("task_name=x", "leave it out"),
     ("extends=x.yaml", "only a run's file")],
)  # fmt: skip
def test_settings_of_the_suite_cannot_be_overridden(word: str, remedy: str, plan_of: Plan) -> None:
    with pytest.raises(ConfigError, match=remedy):
        plan_of("tasks: {a: {}}\n", overrides=(word,))


def test_colliding_names_and_identical_runs(plan_of: Plan) -> None:
    with pytest.raises(ConfigError, match="two runs would have the name a-b-c-s42"):
        plan_of("tasks: {a: {}, a-b: {}}\nmethods: {b-c: {}, c: {training.weight_decay: 0.1}}\n")
    plan = plan_of("tasks: {a: {}, b: {}}\n")
    assert plan.warnings == [
        "a-lora-s42 and b-lora-s42 are the same configuration and measure the same; exclude one of them"
    ]


def test_values_unfit_for_folder_names_are_hashed(plan_of: Plan) -> None:
    text = "tasks: {a: {}}\ngrid: {peft.target_modules: [[q_proj], [q_proj, v_proj]], peft.init_lora_weights: [true]}\n"
    found = names(plan_of(text))
    assert len(set(found)) == 2
    assert all("/" not in name and "[" not in name for name in found)
    assert found == names(plan_of(text))


def test_the_written_file_equals_the_planned_run(plan_of: Plan, tmp_path: Path) -> None:
    from utils.config.yaml_text import dump_yaml

    for run in plan_of("tasks: {a: {}}\n" + METHODS).runs:
        file = tmp_path / f"{run.name}.yaml"
        file.write_text(dump_yaml(run.config), encoding="utf-8")
        assert load_run_config(file).fingerprint() == run.fingerprint


def test_nothing_left_to_run(plan_of: Plan) -> None:
    with pytest.raises(UserError, match="no run is left of the suite"):
        plan_of("tasks: {a: {}}\nexclude: [{task: a}]\n")


def validate(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = run_cli(validate_config.main, validate_config.build(), [str(path), *words])
    return code, capsys.readouterr().out


def test_a_valid_suite_passes(write_suite: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = write_suite("tasks: {a: {}, b: {peft.lora_r: 4}}\nseeds: [1, 2]\n")
    assert find_kind(path) == "suite"
    code, out = validate(path, capsys)
    assert code == 0
    assert out.splitlines()[:6] == [
        f"{path} (suite)",
        "  [1/5] reads as YAML: ok",
        "  [2/5] tasks, methods, grid and seeds: ok",
        "  [3/5] its 4 runs: ok",
        "  [4/5] every setting has an effect: ok",
        "  [5/5] this machine: ok",
    ]
    assert "a-lora-s1\na-lora-s2\nb-lora-s1\n" in validate(path, capsys, "--show")[1]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tasks: [\n", "  [1/1] reads as YAML: FAIL"),
        ("tasks: {a: 5}\n", "  [2/2] tasks, methods, grid and seeds: FAIL"),
        ("tasks: {a: {peft.lora_rr: 4}, b: {}}\n", "  [3/3] its 2 runs: FAIL"),
    ],
)
def test_each_check_can_fail(
    text: str, line: str, write_suite: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_suite(text)
    code, out = validate(path, capsys)
    assert code == 1
    if "reads" not in line:  # a file that is not YAML has no kind
        assert f"{path} (suite)" in out
        assert line in out
    assert f"FAIL {path}" in out


def test_mistakes_and_settings_without_effect_in_the_runs(
    write_suite: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_suite("tasks:\n  a: {}\n  b: {peft.lora_rr: 4}\n")
    code, out = validate(path, capsys)
    assert code == 1
    assert f"{path}:11  peft.lora_rr: unknown key; did you mean lora_r? (in b-lora-s42)" in out
    idle = write_suite("tasks: {a: {training.eval_steps: 5}}\n")
    code, out = validate(idle, capsys)
    assert code == 0
    assert "warning:" in out
    assert "training.eval_steps: has no effect" in out
    assert validate(idle, capsys, "peft.lora_rr=3")[0] == 1
    assert validate(idle, capsys, "seed=3")[0] == 1


def test_a_million_runs_are_refused_at_once(
    write_suite: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    values = ", ".join(str(value) for value in range(1, 101))
    grid = "".join(f"  {key}: [{values}]\n" for key in ("peft.lora_r", "peft.lora_alpha", "training.max_steps"))
    code, out = validate(write_suite(f"tasks: {{a: {{}}}}\ngrid:\n{grid}"), capsys)
    assert code == 1
    assert "grid: tasks, methods, grid and seeds make 1,000,000 runs; at most 5,000 are planned" in out
