"""HumanEval and MBPP rows: the prompts, and how an answer becomes a program."""

from __future__ import annotations

import pytest

from utils.core.texts import RowError
from utils.data.dataset import load_dataset_plugin
from utils.metrics.pass_at_k import build_program

HEAD = 'import math\n\n\ndef two():\n    """Give 2."""\n'
HUMANEVAL = {
    "task_id": "HumanEval/0", "prompt": HEAD, "entry_point": "two", "canonical_solution": "    return 2\n",
    "test": "def check(candidate):\n    assert candidate() == 2\n",
}  # fmt: skip
MBPP = {
    "task_id": 11, "text": "Write a function to add.", "code": "def add(a, b):\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(1, 1) == 2"], "test_setup_code": "",
}  # fmt: skip


def describe(name: str, **keys):
    module = load_dataset_plugin(name)
    return module.describe_instructions(module.Config(**keys))


def test_humaneval_programs_are_assembled_as_by_its_authors():
    spec = describe("humaneval")
    example = spec.read_row(HUMANEVAL)
    assert (example.prompt, example.answer, example.plain) == (HEAD, "    return 2\n", True)
    assert spec.read_prompt(HUMANEVAL).prompt == HEAD
    official = f"{HEAD}    return 2\n\n{HUMANEVAL['test']}\ncheck(two)"
    assert build_program(example.answer, example.reference) == official
    assert (spec.metrics, spec.greedy, spec.own_prompt, spec.identify(HUMANEVAL)) == (
        ("pass_at_1",), True, True, "HumanEval/0",
    )  # fmt: skip
    with pytest.raises(RowError, match="no column entry_point"):
        spec.read_row({"prompt": HEAD, "test": ""})


def test_a_chat_model_is_asked_for_the_function():
    spec = describe("humaneval", protocol="instruct")
    [turn] = spec.read_row(HUMANEVAL).messages
    assert turn["content"].startswith("Write a solution to the following problem")
    assert HEAD in turn["content"]
    assert spec.read_prompt(HUMANEVAL).messages == (turn,)
    assert not spec.chat_exempt
    [turn] = describe("mbpp", protocol="instruct").read_row(MBPP).messages
    assert turn["content"].endswith("assert add(1, 1) == 2")


def test_mbpp_prompts_start_with_three_examples():
    spec = describe("mbpp")
    example = spec.read_row(MBPP)
    assert example.prompt.count("[BEGIN]\n") == 4
    assert example.prompt.count("[DONE]\n\n") == 3
    assert example.prompt.count("\r\n") == 11, "the dataset's own line ends"
    assert example.prompt.endswith(
        "You are an expert Python programmer, and here is your task: Write a function to add. Your code should pass "
        "these tests:\n\nassert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add(1, 1) == 2\n[BEGIN]\n"
    )
    assert build_program("def add(a, b): pass", example.reference).splitlines()[-1] == "assert add(1, 1) == 2"
    assert (spec.shots, spec.stop, spec.subset) == (3, ("[DONE]",), "full")
    sanitized = {**MBPP, "prompt": MBPP["text"], "test_imports": ["import math"]}
    del sanitized["text"], sanitized["test_setup_code"]
    assert spec.read_row(sanitized).reference["before"] == "import math\n"
    with pytest.raises(RowError, match="column test_list is not a list of lines"):
        spec.read_row({**MBPP, "test_list": "assert"})


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_the_datasets_own_prompt_is_used(name: str):
    assert "prompt_template" in load_dataset_plugin(name).Config(prompt_template="{prompt}").find_conflicts()
