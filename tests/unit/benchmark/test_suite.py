"""Mistakes in a suite's file: each is one sentence with its line and remedy, all in one report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from utils.benchmark.suite_reader import read_suite
from utils.core.errors import ConfigError

TASK = "tasks: {a: {}}\n"


def mistakes(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_suite(path)
    return [str(problem).replace(str(path.parent), "") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("task: {a: {}}\n" + TASK, "task: unknown key; did you mean tasks?"),
        ("tasks: {}\n", "tasks: is empty; name at least one task"),
        ("tasks: [rte, cola]\n", "tasks: ['rte', 'cola'] is not allowed; use a mapping"),
        ("tasks: {a: 5}\n", "tasks.a: must be a mapping of settings, found 5"),
        ("tasks: {a b: {}}\n", "tasks.a b: a name may hold letters, digits and . _ + -, since it names folders"),
        ("tasks: {../up: {}}\n", "tasks.../up: a name may hold letters"),
        (
            "tasks: {a: {peft.lora_r: 4, peft: {lora_r: 8}}}\n",
            "tasks.a.peft.lora_r: peft.lora_r is set twice here, nested and dotted; keep one",
        ),
        ("tasks: {a: {seed: 3}}\n", "tasks.a.seed: seeds are written in seeds: at the top of the suite"),
        ("tasks: {a: {task_name: x}}\n", "tasks.a.task_name: the suite names its runs; take it out"),
        ("tasks: {a: {training: {output_dir: x}}}\n", "every run has its own folder below the suite's; use output_dir"),
        ("tasks: {a: {output_dir: x}}\n", "every run has its own folder below the suite's; use output_dir"),
        (
            "methods: {lora: {}}\ntasks: {a: {methods: {lorra: {peft.lora_r: 4}}}}\n",
            "tasks.a.methods.lorra: no method called lorra; did you mean lora?",
        ),
        (TASK + "methods: {lora: 3}\n", "methods.lora: must be a mapping of settings, found 3"),
        (TASK + "grid: {peft.lora_r: 4}\n", "grid.peft.lora_r: needs a list of values, such as [4, 8]; found 4"),
        (TASK + "grid: {peft.lora_r: []}\n", "grid.peft.lora_r: needs a list of values"),
        (TASK + "grid: {peft.lora_r: [4, 4]}\n", "grid.peft.lora_r: a value is listed twice; keep one"),
        (TASK + "grid: {seed: [4, 5]}\n", "grid.seed: seeds are written in seeds:"),
        (TASK + "seeds: []\n", "seeds: is empty; name seeds, or leave the key out for the base's"),
        (TASK + "seeds: [1, 1]\n", "seeds: a seed is listed twice; keep one"),
        (TASK + "seeds: 3\n", "seeds: 3 is not allowed; use a list of whole numbers or null"),
        (TASK + "include: [{tusk: a}]\n", "tusk is neither task, method, seed nor a key of the grid; did you"),
        (TASK + "exclude: [{task: b}]\n", "exclude.0.task: 'b' is not one of the suite's; use one of: a"),
        (TASK + "exclude: [{method: x}]\n", "'x' is not one of the suite's; use one of: none, since the suite has"),
        (TASK + "exclude: [{}]\n", "exclude: an entry is empty; name a task, a method, a seed or a key"),
        (TASK + "exclude: a\n", "exclude: 'a' is not allowed; use a list of"),
        (TASK + "timeout_minutes: 0\n", "timeout_minutes: 0 is not allowed; use a number or null above 0"),
        (TASK + "baselines: [random]\n", "baselines: ['random'] is not allowed; use a list of one of: majority"),
        (TASK + "methods: {lora: {}}\nreferences: [lorra]\n", "references: no method called lorra; did you mean lora?"),
        (TASK + "references: []\n", "references"),
        (TASK + "results: {lang: zh}\n", "results.lang: unknown key; did you mean language?"),
        (TASK + "results: {name: a/b}\n", "results.name"),
        (TASK + "model: {name_or_path: x}\n", "model: not a key of this section; keys of a run go under run:"),
        ("", "tasks: missing; add it at the top of the file"),
    ],
)  # fmt: skip
def test_each_mistake_is_reported_in_one_sentence(text: str, sentence: str, write_suite: Callable[..., Path]) -> None:
    found = mistakes(write_suite(text, head=""))
    assert len(found) == 1, found
    assert sentence in found[0]
    assert found[0].startswith("/s.yaml")


def test_all_mistakes_are_reported_together_in_line_order(write_suite: Callable[..., Path]) -> None:
    text = "tasks: {a: 5}\nseeds: [1, 1]\ngrid: {peft.lora_r: 4}\nbaselines: [none]\n"
    found = mistakes(write_suite(text, head=""))
    assert [line.split("  ")[0] for line in found] == [f"/s.yaml:{line}" for line in (4, 5, 6, 7)]


def test_a_missing_or_invalid_base_file_is_refused(write_suite: Callable[..., Path]) -> None:
    assert "no such file" in mistakes(write_suite(TASK, head="", base="nowhere.yaml"))[0]
    other = write_suite(TASK, head="").rename(write_suite(TASK, head="").with_name("other.yaml"))
    assert "other.yaml is a suite itself" in mistakes(write_suite(TASK, head="", base=other.name))[0]
    assert "neither base: nor run:" in mistakes(write_suite(TASK, head="", base=None))[0]


def test_a_run_file_is_not_a_suite() -> None:
    path = Path(__file__).parents[3] / "configs" / "quickstart.yaml"
    with pytest.raises(ConfigError, match="not a suite; a run's file is trained by train"):
        read_suite(path)


def test_only_the_first_key_is_split_at_its_dots(write_suite: Callable[..., Path]) -> None:
    text = "tasks: {a: {peft.rank_pattern: {layers.0.q_proj: 4}, training: {learning_rate: 1e-3}}}\n"
    task = read_suite(write_suite(text)).tasks["a"].data
    assert task == {"peft": {"rank_pattern": {"layers.0.q_proj": 4}}, "training": {"learning_rate": 1e-3}}
