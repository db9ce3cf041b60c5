"""Measure inference.py: rows and tokens per second against plain transformers, and memory by number of rows.

Generation: greedy answers to the same prompts by model.generate one by one, by transformers' text-generation pipeline
at batch 16, and by inference.py from file to file. Classification: the same rows by the text-classification pipeline,
one at a time (its default) and at batch 16, and by inference.py. Each run is a separate process; they alternate, and
medians are printed with the number of equal answers. Loading is not timed; reading, encoding, decoding and writing are.
Computation is in float32, so that padding changes no answer by rounding.

DATA is the folder of real rows (LORA_NS_REAL_DATA):

  python perf/inference.py --generate DATA/gsm8k/test.jsonl --model DATA/models/TinyStories-656K
  python perf/inference.py --classify DATA/glue/cola/test-00000-of-00001.parquet --model MINILM
  python perf/inference.py --memory 10000 100000 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from perf.processes import give_result, run_process

KINDS = {
    "generate": ("one_by_one", "pipeline_16", "ours"),
    "classify": ("pipeline_1", "pipeline_16", "ours"),
}
Rows = list[str]
Result = dict[str, Any]


def main() -> None:
    """Run the kinds, alternating, and print the measurements."""
    options = _parse()
    if options.kind:
        give_result(_run_kind(options))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        answer = _measure_memory(options) if options.memory else _compare(options)
    print(json.dumps(answer, indent=None if options.json else 1))


def _compare(options: argparse.Namespace) -> Result:
    """Prepare model and rows, run all kinds alternating, and compare them with ours."""
    task = "generate" if options.generate else "classify"
    texts = _prepare(options, task)
    kinds = KINDS[task]
    runs: dict[str, list[Result]] = {kind: [] for kind in kinds}
    for _ in range(options.repeat):
        for kind in kinds:
            runs[kind].append(_run_alone(options, kind))
    ours = runs["ours"][0]["answers"]
    answer: Result = {"task": task, "rows": len(texts), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    for kind, results in runs.items():
        seconds = statistics.median(each["seconds"] for each in results)
        answer[kind] = {
            "rows_per_s": round(len(texts) / seconds, 1),
            "tokens_per_s": round(results[0]["num_tokens"] / seconds),
            "all_seconds": [round(each["seconds"], 2) for each in results],
            "same_answers": sum(_is_same(*pair) for pair in zip(ours, results[0]["answers"], strict=True)),
            "differing": [index for index, pair in enumerate(zip(ours, results[0]["answers"], strict=True))
                          if not _is_same(*pair)][:10],
        }  # fmt: skip
    answer["ours_over"] = {
        kind: round(answer["ours"]["rows_per_s"] / answer[kind]["rows_per_s"], 2) for kind in kinds if kind != "ours"
    }
    return answer


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two answers agree: texts, or a label with its probability."""
    if isinstance(one, str):
        return bool(one == other)
    return bool(one[0] == other[0] and abs(one[1] - other[1]) < 1e-5)


def _prepare(options: argparse.Namespace, task: str) -> Rows:
    """Write the rows and a float32 copy of the model, with a random head for classification."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    folder = Path(options.folder)
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if task == "generate" else AutoModelForSequenceClassification
    auto.from_pretrained(options.model, dtype=torch.float32, trust_remote_code=False).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(options.model, trust_remote_code=False).save_pretrained(folder / "model")
    texts = _read_texts(options, task)[: options.rows]
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return texts


def _read_texts(options: argparse.Namespace, task: str) -> Rows:
    if task == "generate":
        lines = Path(options.generate).read_text("utf-8").splitlines()
        return [f"Question: {json.loads(line)['question']}\nAnswer:" for line in lines]
    from pyarrow.parquet import read_table

    texts: Rows = read_table(options.classify)["sentence"].to_pylist()
    return texts


def _run_kind(options: argparse.Namespace) -> Result:
    """Answer all rows by one kind, in this process."""
    folder = Path(options.folder)
    if options.kind == "memory":
        said = _call_inference(folder, "--output_file", str(folder / "out.jsonl"))
        return {**said, "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
    if options.kind == "ours":
        return _run_ours(options, folder)
    texts = [json.loads(line)["text"] for line in (folder / "rows.jsonl").read_text("utf-8").splitlines()]
    answer: Callable[[Rows], Result]
    if options.generate:
        answer = _open_one_by_one(options) if options.kind == "one_by_one" else _open_text_pipeline(options)
    else:
        answer = _open_class_pipeline(options)
    start = time.perf_counter()
    result = answer(texts)
    return {"seconds": time.perf_counter() - start, **result}


def _run_ours(options: argparse.Namespace, folder: Path) -> Result:
    """Run inference.py on a file, timed by itself from the first row read to the file written."""
    words = ["--output_file", str(folder / "out.jsonl")]
    words += ["--max_new_tokens", str(options.max_new_tokens)] if options.generate else []
    words += ["--batch_size", str(options.batch_size)] if options.generate and options.batch_size else []
    said = _call_inference(folder, *words)
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").splitlines()]
    if options.generate:
        answers: list[Any] = [row["answer"] for row in rows]
        num_tokens = sum(row["num_tokens"] for row in rows)
    else:
        answers = [[row["label"], row["probabilities"][row["label"]]] for row in rows]
        num_tokens = round(said["tokens_per_s"] * said["seconds"])
    return {"seconds": said["seconds"], "answers": answers, "num_tokens": num_tokens}


def _call_inference(folder: Path, *words: str) -> Result:
    """Run the command as its command line does and return its JSON object."""
    from utils.core.logs import prepare_libraries

    prepare_libraries()
    script = import_module("inference")  # this file has the same name as the command
    given = ["--model", str(folder / "model"), "--input_file", str(folder / "rows.jsonl"), "--json", *words]
    answer: Result = script.main(script.build().parse_args(given))
    return answer


def _open_one_by_one(options: argparse.Namespace) -> Callable[[Rows], Result]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(f"{options.folder}/model", trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(f"{options.folder}/model", trust_remote_code=False).eval()

    def answer(texts: Rows) -> Result:
        answers, num_tokens = [], 0
        for text in texts:
            inputs = tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                written = model.generate(
                    **inputs, max_new_tokens=options.max_new_tokens, do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )  # fmt: skip
            new = written[0, inputs["input_ids"].shape[1] :]
            answers.append(tokenizer.decode(new, skip_special_tokens=True))
            num_tokens += len(new)
        return {"answers": answers, "num_tokens": num_tokens}

    return answer


def _open_text_pipeline(options: argparse.Namespace) -> Callable[[Rows], Result]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(f"{options.folder}/model", padding_side="left", trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(f"{options.folder}/model", trust_remote_code=False)
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, device=-1)

    def answer(texts: Rows) -> Result:
        found = pipe(
            texts, batch_size=16, max_new_tokens=options.max_new_tokens, do_sample=False, return_full_text=False
        )
        answers = [each[0]["generated_text"] for each in found]
        return {"answers": answers, "num_tokens": sum(len(ids) for ids in tokenizer(answers)["input_ids"])}

    return answer


def _open_class_pipeline(options: argparse.Namespace) -> Callable[[Rows], Result]:
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(f"{options.folder}/model", trust_remote_code=False)
    pipe = pipeline("text-classification", model=f"{options.folder}/model", tokenizer=tokenizer, device=-1)
    size = int(options.kind.removeprefix("pipeline_"))

    def answer(texts: Rows) -> Result:
        found = pipe(texts, batch_size=size)
        answers = [[each["label"], each["score"]] for each in found]
        return {"answers": answers, "num_tokens": sum(len(ids) for ids in tokenizer(texts)["input_ids"])}

    return answer


def _measure_memory(options: argparse.Namespace) -> Result:
    """Classify increasing numbers of short rows with a tiny random model; return peak resident memory."""
    _make_tiny(Path(options.folder) / "model")
    answer: Result = {"threads": os.environ.get("OMP_NUM_THREADS", "all")}
    for number in options.memory:
        with (Path(options.folder) / "rows.jsonl").open("w", encoding="utf-8") as file:
            for index in range(number):
                file.write(f'{{"id": {index}, "text": "w{index % 50} w{index % 47} w{index % 7}"}}\n')
        found = _run_alone(options, "memory")
        answer[f"{number} rows"] = {name: found[name] for name in ("peak_rss_mib", "rows_per_s", "seconds")}
    return answer


def _make_tiny(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ("[PAD]", "[UNK]", *(f"w{index}" for index in range(50)))
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16,
            max_position_embeddings=16,
        )
    ).save_pretrained(folder)  # fmt: skip


def _run_alone(options: argparse.Namespace, kind: str) -> Result:
    given = [each for each in sys.argv if each != "--json"]
    answer: Result = run_process([*given, "--kind", kind, "--folder", options.folder])
    print(f"{kind}: {answer['seconds']:.2f} s", file=sys.stderr)
    return answer


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--generate", metavar="FILE", help="jsonl with a column question")
    what.add_argument("--classify", metavar="FILE", help="parquet with a column sentence")
    what.add_argument("--memory", nargs="+", type=int, metavar="ROWS", help="numbers of rows")
    parser.add_argument("--model", help="a folder or hub name: a language model, or an encoder")
    parser.add_argument("--rows", type=int, default=None, help="use only the first rows; default: all")
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=None, help="batch size of inference.py; default: its own")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON in one line")
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
