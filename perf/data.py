"""Measure reading and encoding many rows: seconds, peak memory, and seconds of a second start.

Rows are made from those of a file, numbered so that all differ, and written as a dataset of the given size. Each start
is a separate process, like train.py; the second start finds the first one's cache.

  python perf/data.py --rows ../shared/data/gsm8k/train.jsonl --tokenizer ../shared/data/tokenizers/gpt2
  python perf/data.py --task SEQ_CLS --rows ROWS.jsonl --tokenizer FOLDER --count 1000000
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from perf.processes import give_result, run_process


def main() -> None:
    """Write the rows, start twice, and print one JSON object."""
    options = _parse()
    if options.config:
        give_result(_prepare(options.config))
        return
    with tempfile.TemporaryDirectory() as folder:
        config = _write(options, Path(folder))
        environment = {**os.environ, "LORA_NS_CACHE": f"{folder}/cache", "HF_DATASETS_CACHE": f"{folder}/datasets"}
        answer = {start: _start(config, environment) for start in ("first", "again")}
    print(json.dumps({"rows": options.count, **answer}, indent=1))


def _write(options: argparse.Namespace, folder: Path) -> Path:
    rows = [json.loads(line) for line in Path(options.rows).read_text("utf-8").splitlines()]
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for number, row in zip(range(options.count), itertools.cycle(rows), strict=False):
            question = f"{number}. {row['question']}"
            made = {"question": question, "answer": row["answer"]}
            if options.task == "SEQ_CLS":
                made = {"sentence": question[: options.characters], "label": number % 2}
            file.write(json.dumps(made) + "\n")
    (folder / "validation.jsonl").write_text(json.dumps(made) + "\n", "utf-8")
    roles: dict[str, str] = {"text_column": "sentence"}
    if options.task == "CAUSAL_LM":
        roles = {"prompt_template": "Question: {question}\nAnswer:", "answer_column": "answer"}
    base = shutil.copytree(options.tokenizer, folder / "base")  # no model is loaded
    (base / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}), "utf-8"
    )
    dataset = {"name": "custom", "path": str(folder), **roles, "max_length": 512}
    document: dict[str, Any] = {
        "task_type": options.task, "model": {"name_or_path": str(base)}, "peft": {"method": "lora"},
        "dataset": dataset, "training": {"output_dir": str(folder / "run")},
    }  # fmt: skip
    if options.task == "CAUSAL_LM":
        document["sft"] = {"max_length": dataset.pop("max_length")}
    (folder / "run.yaml").write_text(json.dumps(document), "utf-8")  # JSON is YAML
    return folder / "run.yaml"


def _start(config: Path, environment: dict[str, str]) -> dict[str, float]:
    answer: dict[str, float] = run_process([__file__, "--config", str(config)], environment)
    return answer


def _prepare(config: str) -> dict[str, float]:
    """Prepare the rows as train.py does; imports are not timed."""
    from utils.modeling.tokenizer import load_tokenizer
    from utils.run_config import load_run_config
    from utils.tasks.task import open_task

    run = load_run_config(Path(config))
    tokenizer = load_tokenizer(run.model)
    task = open_task(run)
    start, used = time.perf_counter(), time.process_time()
    data = task.prepare_data(tokenizer)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2),
        "train_rows": data.num_train_rows,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="CAUSAL_LM", choices=["CAUSAL_LM", "SEQ_CLS"])
    parser.add_argument("--rows", help="jsonl with the columns question and answer")
    parser.add_argument("--tokenizer", help="a folder")
    parser.add_argument("--count", type=int, default=395_000)
    parser.add_argument("--characters", type=int, default=60, help="characters per classified text")
    parser.add_argument("--config", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
