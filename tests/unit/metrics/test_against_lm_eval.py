"""Our scores against lm-evaluation-harness's on the same answers: equal to the last digit, or known deviations.

`python -m pytest -m slow -s tests/unit/metrics/test_against_lm_eval.py` prints the table of docs/metrics.md. The
package needs its own environment (`pip install 'lm-eval[math,longbench]==0.4.13'`), whose python LORA_NS_LM_EVAL
names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from utils.datasets import mbpp
from utils.datasets.math import Config, describe_instructions
from utils.metrics.longbench_score import FIRST_LINE_SUBSETS, SUBSET_METRICS
from utils.metrics.metric import load_metric

REAL = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data"))
PYTHON = os.environ.get("LORA_NS_LM_EVAL") or (sys.executable if find_spec("lm_eval") else None)
SCORER = Path(__file__).with_name("lm_eval_scorer.py")
pytestmark = pytest.mark.slow

Row = dict[str, Any]


def ask_lm_eval(rows: list[Row]) -> list[dict[str, float]]:
    """Return lm-evaluation-harness's score of each answer."""
    if PYTHON is None:
        pytest.skip("lm-evaluation-harness is not installed, and LORA_NS_LM_EVAL names no python that has it")
    asked = "".join(json.dumps({key: row[key] for key in ("task", "doc", "answer")}) + "\n" for row in rows)
    done = subprocess.run([PYTHON, str(SCORER)], input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version, *scores = map(json.loads, done.stdout.splitlines())
    assert version == {"version": "0.4.13"}
    return scores


def count(name: str, rows: list[Row], ours: str, scores: list[dict[str, float]], theirs: str) -> list[Row]:
    """Return the rows whose score differs, and print the table's line."""
    metric = load_metric(ours)
    assert metric.score_rows is not None
    found = metric.score_rows([row["ours"] for row in rows], [row["reference"] for row in rows])
    pairs = list(zip(rows, found, scores, strict=True))
    different = [{**row, "got": got, "want": want[theirs]} for row, got, want in pairs if got != want[theirs]]
    right = sum(want[theirs] for _, _, want in pairs) / len(pairs)
    print(f"| {name} | `{ours}` | {theirs} | {len(rows)} | {right:.4f} | {len(different)} |")
    return different


def read(*parts: str) -> list[Row]:
    file = REAL.joinpath(*parts)
    if not file.is_file():
        pytest.skip(f"{file} is not there (LORA_NS_REAL_DATA)")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def vary(answer: str, other: str) -> Iterator[str]:
    """Yield a worked answer, another row's answer, and variants of the last line as models write it."""
    number = answer.rpartition("#### ")[2]
    yield from (answer, other, answer.replace("#### ", ""), answer.replace("####", "The answer is"))
    yield from (f"{answer}.", f"#### ${number}", f"It costs ${number}.", f"#### {number}.00 in all\n#### 7")
    yield f"{other}\n{answer}"


def test_gsm8k() -> None:
    problems = read("gsm8k", "test.jsonl")
    rows = [
        {"task": "gsm8k", "doc": doc, "answer": text, "ours": text, "reference": doc["answer"]}
        for doc, other in zip(problems, [*problems[1:], problems[0]], strict=True)
        for text in vary(doc["answer"], other["answer"])
    ]
    scores = ask_lm_eval(rows)
    assert len(rows) == 9 * 1319
    assert not count("gsm8k", rows, "em_strict", scores, "strict-match")
    assert not count("gsm8k", rows, "em_flexible", scores, "flexible-extract")


def test_minerva_math() -> None:
    problems = {row["idx"]: row for row in read("math", "problems.jsonl")}
    said = "Final Answer: The final answer is ${}$. I hope it is correct."
    scored, rows = read("math", "scored.jsonl"), []
    for row, other in zip(scored, [*scored[8:], *scored[:8]], strict=True):
        texts = (row["response"], said.format(row["extracted"]), said.format(other["extracted"]))
        doc = problems[row["idx"]]
        more = {"task": "minerva_math", "doc": doc, "reference": doc["solution"]}
        rows += [{**more, "answer": text, "ours": text} for text in texts]
    scores = ask_lm_eval(rows)
    assert not count("minerva_math", rows, "math_minerva", scores, "exact_match")
    assert not count("minerva_math", rows, "math_verify", scores, "math_verify")


def test_hendrycks_math() -> None:
    """It takes everything between the first and the last dollar sign; the comparison rules are the same."""
    problems = {row["idx"]: row for row in read("math", "problems.jsonl")}
    scored, rows = read("math", "scored.jsonl"), []
    for row, other in zip(scored, [*scored[8:], *scored[:8]], strict=True):
        doc = problems[row["idx"]]
        more = {"task": "hendrycks_math", "doc": doc, "reference": doc["solution"]}
        rows += [{**more, "answer": f"${each['extracted']}$", "ours": each["extracted"]} for each in (row, other)]
    assert not count("hendrycks_math", rows, "math_equivalence", ask_lm_eval(rows), "exact_match")


def run_python(code: str) -> Any:
    """Return the last line printed by a program in the package's environment, parsed as JSON."""
    if PYTHON is None:
        pytest.skip("lm-evaluation-harness is not installed, and LORA_NS_LM_EVAL names no python that has it")
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_prompt_of_minerva_math() -> None:
    prompt = run_python(
        "from pathlib import Path; import json, lm_eval.tasks; from lm_eval.tasks._yaml_loader import load_yaml\n"
        "c = load_yaml(Path(lm_eval.tasks.__file__).parent / 'minerva_math/minerva_math_algebra.yaml')\n"
        "ask = c['doc_to_text']\n"
        "shots = [ask(d) + ' ' + d['solution'] + '\\n\\n' for d in c['fewshot_config']['samples']()]\n"
        "print(json.dumps(''.join(shots) + ask({'problem': 'What?'})))"
    )
    spec = describe_instructions(Config(protocol="minerva_math"))
    assert spec.ask is not None
    assert spec.ask("What?").prompt == prompt


def test_the_prompt_of_mbpp() -> None:
    """Its module downloads a metric from the hub on import, so the function is read from its source."""
    doc = {"text": "Do it.", "test_list": ["assert a", "assert b", "assert c"]}
    prompt = run_python(
        "import json, jinja2, lm_eval.tasks; from pathlib import Path\n"
        "from lm_eval.tasks._yaml_loader import load_yaml\n"
        "home = Path(lm_eval.tasks.__file__).parent / 'mbpp'\n"
        "c = load_yaml(home / 'mbpp.yaml', resolve_func=False)\n"
        "source = (home / 'utils.py').read_text()\n"
        "exec(source[source.index('def list_fewshot_samples'):])\n"
        "env = jinja2.Environment(keep_trailing_newline=True)\n"
        "ask = lambda d: env.from_string(c['doc_to_text']).render(**d)\n"
        "tell = lambda d: env.from_string(c['doc_to_target']).render(**d)\n"
        f"doc = {doc!r}\n"
        "print(json.dumps(''.join(ask(d) + tell(d) + '\\n\\n' for d in list_fewshot_samples()) + ask(doc)))"
    )
    spec = mbpp.describe_instructions(mbpp.Config())
    assert spec.read_prompt is not None
    assert spec.read_prompt(doc).prompt == prompt


def test_longbench() -> None:
    """Their tasks end an answer at a newline, ours takes its first line; other differences are listed."""
    rows = []
    for subset in SUBSET_METRICS:
        read_rows = read("longbench_scored", f"{subset}.jsonl")
        for row in read_rows:
            doc = {"answers": row["answers"], "all_classes": read_rows[-1]["all_classes"]}
            first = row["pred"].lstrip("\n").split("\n")[0]
            answer = first if subset in FIRST_LINE_SUBSETS else row["pred"]
            more = {"doc": doc, "answer": answer, "ours": row["pred"], "reference": {**doc, "subset": subset}}
            rows.append({"task": f"longbench_{subset}", **more})
    scores = ask_lm_eval(rows)
    different = []
    for subset in SUBSET_METRICS:
        chosen = [index for index, row in enumerate(rows) if row["task"] == f"longbench_{subset}"]
        part, their = [rows[index] for index in chosen], [scores[index] for index in chosen]
        different += count(f"longbench_{subset}", part, "longbench_score", their, "score")
    assert Counter(row["task"] for row in different) == {
        "longbench_dureader": 1,  # it strips the answer: to jieba a leading space is a word
        "longbench_samsum": 7,  # it strips the answer: a full stop and a space at its end make another sentence
        "longbench_lcc": 3,  # it skips whitespace lines, also after the first
        "longbench_repobench-p": 3,
    }
