"""MATH rows in every published format, its folders of subjects, and the prompts of public evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils.core.texts import RowError
from utils.data.dataset import load_dataset_plugin
from utils.data.instruction import load_generation_rows
from utils.datasets import math as dataset

SOLUTION = r"It is $\boxed{2}$."
HUB = {"problem": "What is $1+1$?", "level": "Level 1", "type": "Algebra", "solution": SOLUTION}
MATH_500 = {**HUB, "level": 1, "subject": "Algebra", "answer": "2", "unique_id": "test/algebra/1.json"}
del MATH_500["type"]


def describe(**keys):
    return load_dataset_plugin("math").describe_instructions(dataset.Config(**keys))


@pytest.mark.parametrize("row", [HUB, MATH_500])
def test_a_row_of_the_hub(row):
    example = describe().read_row(row)
    assert example.prompt == "Problem:\nWhat is $1+1$?\n\nSolution:"
    assert example.answer == f" {SOLUTION}"
    assert example.reference == SOLUTION
    assert example.groups == (("level", "Level 1"), ("subject", "Algebra"))


@pytest.mark.parametrize("columns", [("instruction", "output"), ("query", "response")])
def test_a_row_of_metamaths_files(columns):
    row = dict(zip(columns, ("What?", SOLUTION), strict=True))
    assert describe().read_row({**row, "type": "MATH_AnsAug"}).groups == (("subject", "MATH_AnsAug"),)
    assert describe().read_row(row).groups == ()


def test_the_answer_is_the_reference_if_the_solution_has_no_box():
    assert describe().read_row({"problem": "What?", "answer": "2"}).reference == "2"
    assert describe().read_row({**MATH_500, "solution": "Add them."}).reference == "2"
    with pytest.raises(RowError, match=r"no \\boxed answer"):
        describe().read_row({"problem": "What?", "solution": "Add them."})
    with pytest.raises(RowError, match="none of the columns problem, instruction, query, question"):
        describe().read_row({"solution": SOLUTION})


def test_all_subjects_of_a_folder_form_one_set(tmp_path: Path):
    for number, subject in enumerate(dataset.SUBJECTS):
        (tmp_path / subject).mkdir()
        rows = [{**HUB, "type": subject, "problem": f"{subject} {each}?"} for each in range(number + 1)]
        (tmp_path / subject / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = dataset.Config(path=str(tmp_path))
    rows = load_generation_rows(dataset.describe_instructions(config), config, seed=0)
    assert len(rows.examples) == 28
    assert rows.examples[-1].groups[1] == ("subject", "precalculus")
    one = dataset.Config(path=str(tmp_path), subset="geometry")
    assert len(load_generation_rows(dataset.describe_instructions(one), one, seed=0).examples) == 3


def test_a_file_is_its_own_test_split(tmp_path: Path):
    file = tmp_path / "math_500.jsonl"
    file.write_text("".join(json.dumps({**MATH_500, "problem": f"{each}?"}) + "\n" for each in range(3)))
    config = dataset.Config(path=str(file))
    assert len(load_generation_rows(dataset.describe_instructions(config), config, seed=0).examples) == 3


def test_protocols_use_their_own_prompt():
    metamath, minerva = describe(protocol="metamath"), describe(protocol="minerva_math")
    assert metamath.read_row(HUB).prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nWhat is $1+1$?\n\n### Response: Let's think step by step."
    )
    assert (metamath.metrics, metamath.max_new_tokens) == (("math_metamath",), 2048)
    prompt = minerva.read_row(HUB).prompt
    assert prompt.endswith("I hope it is correct.\n\nProblem:\nWhat is $1+1$?\n\nSolution:")
    assert (prompt.count("Problem:\n"), minerva.shots, minerva.stop) == (5, 4, ("Problem:",))
    assert all(spec.own_prompt and spec.greedy and spec.chat_exempt for spec in (metamath, minerva))
    assert "protocol" in dataset.Config(protocol="metamath", prompt_template="{problem}").find_conflicts()
