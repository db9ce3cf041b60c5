"""Score answers by the filters and metrics of the installed lm-evaluation-harness; run by an interpreter that has it.

Reads one {"task", "doc", "answer"} per line on standard input, and writes one {name: score} per line.
"""

import json
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import lm_eval.tasks
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_metric
from lm_eval.filters import build_filter_ensemble
from lm_eval.tasks._yaml_loader import load_yaml

TASKS = Path(lm_eval.tasks.__file__).parent
FILES = {"minerva_math": "minerva_math_algebra", "hendrycks_math": "hendrycks_math_algebra"}


@cache
def find(task):
    """Load a task's file with the functions it names."""
    home = "longbench" if task.startswith("longbench_") else task
    name = task.removeprefix("longbench_")
    file = TASKS / home / f"{FILES.get(task, name)}.yaml"
    return load_yaml(file, resolve_func=True)


def score_gsm8k(config, doc, answer):
    """Apply each of the task's filters to an answer, and compare."""
    [metric] = config["metric_list"]
    ignored = {key: metric[key] for key in ("regexes_to_ignore", "ignore_case", "ignore_punctuation")}
    found = {}
    for each in config["filter_list"]:
        steps = [[step["function"], {k: v for k, v in step.items() if k != "function"}] for step in each["filter"]]
        request = Instance("generate_until", doc, ("", {}), 0, resps=[answer])
        build_filter_ensemble(each["name"], steps).apply([request])
        kept = request.filtered_resps[each["name"]]
        score = get_metric("exact_match")(predictions=[kept], references=[doc["answer"]], **ignored)
        found[each["name"]] = float(score["exact_match"])
    return found


def main():
    sys.stdout.write(json.dumps({"version": version("lm_eval")}) + "\n")
    for line in sys.stdin:
        row = json.loads(line)
        config, doc, answer = find(row["task"]), row["doc"], row["answer"]
        if row["task"] == "gsm8k":
            found = score_gsm8k(config, doc, answer)
        else:
            if row["task"] == "minerva_math":
                own = config["process_results"].__globals__  # its process_docs, without a dataset
                gold = own["remove_boxed"](own["last_boxed_only_string"](doc["solution"]))
                doc = {**doc, "answer": own["normalize_final_answer"](gold)}
            found = {name: float(value) for name, value in config["process_results"](doc, [answer]).items()}
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
