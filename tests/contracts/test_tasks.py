"""Every task is found by its folder, and nothing outside `utils/tasks` compares its name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from utils.config.section import Section
from utils.core import registry
from utils.tasks.task import Task, default_task, find_tasks, load_task, task_types

ROOT = Path(__file__).parents[2]
NAMES = registry.names("tasks")


def test_the_folders_are_the_tasks() -> None:
    folders = {path.parent.name for path in (ROOT / "utils" / "tasks").glob("*/__init__.py")}
    assert {"classification", "sft", "dpo", "kto", "grpo", "reward"} <= set(NAMES) == folders - {"preference"}, (
        "shared by dpo and kto"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_declared_completely(name: str) -> None:
    task = load_task(name)
    assert issubclass(task, Task)
    assert task.name() == name
    assert all(issubclass(build(), Section) for build in task.sections().values())
    home, _, key = task.LENGTH_KEY.partition(".")
    assert home == "dataset" or key in task.sections()[home]().model_fields
    assert task.SECTION is None or task.SECTION in task.sections()
    assert find_tasks(task.TASK_TYPE)[name] is task


def test_a_task_type_alone_selects_one_task() -> None:
    for task_type in task_types():
        assert task_type == default_task(task_type).TASK_TYPE
        assert sum(task.IS_DEFAULT for task in find_tasks(task_type).values()) == 1
    assert find_tasks("SEQ_CLASS") == {}


def test_a_tasks_name_is_compared_only_in_its_folder() -> None:
    """What a branch on a task's name decides belongs to the task; an unknown one must not fall into an else."""
    values = set(task_types())
    files = [*ROOT.glob("*.py"), *(path for path in (ROOT / "utils").rglob("*.py") if "tasks" not in path.parts)]
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Compare)
        and any(isinstance(each, ast.Constant) and each.value in values for each in (node.left, *node.comparators))
    ]
    assert found == [], "let the task provide what depends on it"
