"""Bad inputs to every command, by accident or malice: what they are, and how each must end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ESCAPE = "\x1b[31mred"
LONG = "n" * 300
HUGE = "9" * 30
TRAIN, INFER, SCORE, MERGE = "train.py", "inference.py", "evaluate_model.py", "merge_adapter.py"
SUITE, CHECK, OTHER = "benchmark.py", "validate_config.py", "utils/cli/lora_ns.py"
Prepare = Callable[[Path], None]


class BadInput(NamedTuple):
    """A command line in a copy of a folder, how the folder is changed first, and how the command must end."""

    stock: str
    script: str
    words: Sequence[str]
    code: int = 2
    said: str = ""
    """Part of the message that the user must see."""
    prepare: Prepare | None = None


def _write(name: str, content: str | bytes | Any) -> Prepare:
    """Return a change that writes a file: text, bytes, or any other value as JSON."""

    def write(folder: Path) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shown = content if isinstance(content, str | bytes) else json.dumps(content)
        file.write_bytes(shown if isinstance(shown, bytes) else shown.encode("utf-8", "surrogatepass"))

    return write


def _change(file: str, **keys: Any) -> Prepare:
    """Return a change of values in a YAML or JSON file; `a__b` means a.b."""

    def change(folder: Path) -> None:
        data = yaml.safe_load((folder / file).read_text("utf-8"))
        for key, value in keys.items():
            *path, last = key.split("__")
            section = data
            for name in path:
                section = section.setdefault(name, {})
            section[last] = value
        (folder / file).write_text(json.dumps(data), "utf-8")

    return change


def _link(name: str, target: str) -> Prepare:
    return lambda folder: (folder / name).symlink_to(target)


def _seal(checkpoint: str, name: str, content: str) -> Prepare:
    """Return a change that writes a checkpoint's file and lists its new size, so that it counts as complete."""

    def write(folder: Path) -> None:
        (folder / checkpoint / name).write_text(content)
        listed = folder / checkpoint / "complete.json"
        manifest = json.loads(listed.read_text("utf-8"))
        manifest["files"][name] = len(content)
        listed.write_text(json.dumps(manifest))

    return write


def _flags() -> Iterator[BadInput]:
    """Return bad flags and overrides of every command."""
    run, text = ("--run", "run"), ("--input_text", "dog")
    for stock, script, first, words in (
        ("classifier", TRAIN, ("--config", "run.yaml"), (
            "--gpu 99", "--gpu x", "--gpu 0,0", "--gpu -1",
            "--show -1", "--preview 0", "--plan --card none", "--plan --rate nan",
            "--plan --rate inf",
            "--plan --rate 1e999", f"--plan --rate -{HUGE}", "a.b.c=1", "training.max_steps=",
            "peft.lora_r=[", f"seed={HUGE}", "seed=-1", "seed=1e999", "training..max_steps=1", f"{LONG}=1",
            f"dataset.path={LONG}", "--nonsense", "--resume --overwrite", "--rate 5", "--card h100", "--probe",
        )),
        ("language_model", INFER, (*run, *text), (
            "--temperature nan", "--temperature inf", "--temperature -1", "--temperature 1e999", "--top_p 0",
            "--temperature 1 --top_p 2", "--temperature 1 --top_p nan",
            "--temperature 1 --seed -1",
            "--max_new_tokens 0",
            "--checkpoint 99", "--best --checkpoint 4",
            "--input_file run",
            "--input_file nowhere.jsonl", "--input_file run.yaml", "--output_file run", "--output_file x.nope",
            "--output_file no/such/x.jsonl", "--model run", "--served_model x", "--adapter nowhere",
            "--config nowhere.yaml",
            "--server x", "--server ftp://x/v1", f"--input_file {LONG}.jsonl", "--input_format nope",
        )),
        ("language_model", SCORE, run, (
            "--set ?", "--set nope", "--set gsm8k@", "--set gsm8k@nope", "--set gsm8k@test[", "--set gsm8k@test[5:1]",
            "--set gsm8k@test[:0]", "--set gsm8k@test[:x]", "--set rows.jsonl?", "--set ?a=b",
            "--set gsm8k?label=../../x",
            "--set gsm8k?label=.", "--set gsm8k?nope=1", f"--set gsm8k?label={LONG}", "--set gsm8k@test[:2]?label=a/b",
            "--set {name:gsm8k", "--set [1]", f"--set {LONG}", "--metric nope", "--adapter none/*", "--adapter [",
            "--adapter **", "--model nowhere", "--show x", "--output_dir run.yaml", f"--output_dir {LONG}",
            "--output_dir /proc/nope", "--checkpoint 4", "generation.max_new_tokens=0", "evaluation.max_samples=-1",
            "--answers nowhere.jsonl --metric exact_match", "--answers run.yaml --metric exact_match",
        )),
        ("language_model", MERGE, run, (
            "--output run", "--output run/final_model", "--output run.yaml", "--output .", f"--output {LONG}",
            "--output m --as_lora 0", f"--output m --as_lora {HUGE}", "--output m --max_shard_size 0GB",
            "--output m --eval_rows -1", "--output m --dtype x", "--output m --format gguf --quantize nf4",
            "--output m --gguf_type f16", "--output /proc/nope", "--output m --config run.yaml", "",
        )),
        ("classifier", MERGE, run, ("--output m --format gguf",)),
        ("suite", SUITE, ("--config", "suite.yaml"), (
            "--seeds 1,1", "--seeds -1", "--seeds x", f"--seeds {HUGE}", "--shard 0/0", "--shard 5/2", "--jobs 0",
            "--only nope",
            "--only [", "--retry x", "--launcher nope", "--single nope", "--epochs nan", "--epochs 0", "--task nope",
            "--method nope", "--output_dir suite.yaml", f"--output_dir {LONG}", "--model nowhere/at/all",
        )),
        ("classifier", CHECK, (),
        ("", "run", "nowhere.yaml", "/dev/null", LONG, "run/final_model")),
        ("language_model", OTHER, (), (
            "nonsense", "compare", "compare run nowhere", "compare run run.yaml", "report nowhere",
            "report run.yaml", "report run/final_model", "push run a/b/c --dry-run", "push run a..b --dry-run",
            "push run -x --dry-run", f"push run {LONG} --dry-run", "push run/checkpoint-4 me/x --dry-run",
            "push nowhere me/x --dry-run", "push run me/x --dry-run --include ../*",
            "push run me/x --dry-run --include /etc/*",
            "push run me/x --dry-run --include nope", "infer --run hub:",
            "infer --run hub:a/b/c --input_text x",
            "infer --run hub:me/x@ --input_text x", "infer --run hub:../../etc --input_text x", "plan", "plan nowhere",
        )),
    ):  # fmt: skip
        for each in words:
            yield BadInput(
                stock, script, (*first, *each.split()), 1 if script == CHECK and each not in ("", LONG) else 2
            )


def _settings() -> Iterator[BadInput]:
    """Return settings of the right type that no library or machine accepts."""
    for each in (
        "training.log_level_replica=/", "training.log_level=loud", "training.neftune_noise_alpha=-1",
        f"peft.lora_r={10**12}", f"peft.lora_r={HUGE}", "peft.lora_r=0", "peft.lora_dropout=1.5", "peft.lora_alpha=x",
        "training.learning_rate=-1", "training.learning_rate=x", "training.optim=none",
        "training.lr_scheduler_type=up",
        "training.per_device_train_batch_size=0", "training.gradient_accumulation_steps=0", "training.max_grad_norm=x",
        "training.save_steps=1.5", "training.eval_strategy=often", "training.report_to=nobody",
        "training.bf16=perhaps",
        "training.callbacks=[nowhere:Nothing]", "training.callbacks=[os:path]", "training.output_dir=run.yaml",
        f"training.output_dir={LONG}", "training.output_dir=/proc/run", "model.name_or_path=nowhere/at/all",
        "model.name_or_path=run.yaml", "model.dtype=float7", "model.quantization=nf5", "model.revision=[]",
        "dataset.path=nowhere", "dataset.path=run.yaml", "dataset.text_column=nope", "dataset.label_column=nope",
        "dataset.label_names=[a]", "dataset.label_names=[a,a]", "dataset.max_length=0",
        "dataset.max_train_samples=0",  "dataset.name=nobody", "seed=x",
        "task_type=NONE",
        "extensions=[nowhere]", "extensions=[run]", "extensions=nowhere", "peft.method=magic",
        "peft.adapter_path=nowhere",
        "peft.target_modules=[nope]", "peft.layers_to_transform=[99]", "dpo={}", "grpo={rewards: {}}",
    ):  # fmt: skip
        yield BadInput("classifier", TRAIN, ("--config", "run.yaml", "--overwrite", each))


def _checkpoints() -> Iterator[BadInput]:
    """Return bad checkpoint states, in files that transformers reads first."""
    for number, content in enumerate(('{"total_flos": ' + "[" * 10**5, '{"global_step": ' + "9" * 6000 + "}", "[]")):
        words = ("--config", "run.yaml", "--resume", f"training.max_steps={5 + number}")
        resealed = _seal("run/checkpoint-4", "trainer_state.json", content)
        yield BadInput("classifier", TRAIN, words, said="trainer_state.json", prepare=resealed)


def _rows() -> Iterator[BadInput]:
    """Return malformed rows, for training and for inference."""
    good = [{"sentence": f"a dog {n}", "label": n % 2} for n in range(24)]
    lines = [json.dumps(row) for row in good]
    table = "sentence,label\n" + "".join(f"a dog {n},{n % 2}\n" for n in range(24))
    contents: dict[str, Any] = {
        "empty.jsonl": "", "blank.jsonl": "\n\n", "list.json": [1, 2], "number.json": 5, "null.json": "null",
        "deep.json": "[" * 10**5,
        "cut.jsonl": "\n".join(lines)[:-5], "words.jsonl": "a dog\n", "lists.jsonl": "[1]\n",
        "latin.jsonl": b'{"sentence": "\xff"}',
        "utf16.jsonl": "\n".join(lines).encode("utf-16"), "nul.jsonl": b"\0" * 500,
        "digits.jsonl": '{"label": ' + "9" * 6000 + "}",
        "nan.jsonl": "\n".join([*lines, '{"sentence": "x", "label": NaN}']),
        "no_label.jsonl": '{"sentence": "x"}\n' * 24,
        "other_class.jsonl": "\n".join([*lines, '{"sentence": "x", "label": 7}']),
        "text_list.jsonl": "\n".join([*lines, '{"sentence": ["x"], "label": 1}']),
        "text_map.jsonl": "\n".join([*lines, '{"sentence": {}, "label": 1}']),
        "label_list.jsonl": "\n".join([*lines, '{"sentence": "x", "label": [1]}']),
        "label_half.jsonl": "\n".join([*lines, '{"sentence": "x", "label": 0.5}']),
        "red.jsonl": "\n".join([*lines, json.dumps({"sentence": "x", "label": ESCAPE})]),
        "half.jsonl": "\n".join([*lines, '{"sentence": "x"}']),
        "empty.csv": "", "header.csv": "sentence,label\n", "no_header.csv": table.partition("\n")[2],
        "twice.csv": table.replace("sentence,", "label,"),
        "wide.csv": table + "a,b,c,d\n", "open.csv": table + '"never closed,1\n',
        "wide_head.csv": ",".join(f"c{n}" for n in range(40000)) + "\n1\n",
        "fake.parquet": "PAR1" + "x" * 100, "fake.arrow": "ARROW1", "fake.xlsx": b"PK\3\4" + b"\0" * 50,
        "rows.exe": "MZ", "x.tsv": "sentence\tlabel\nx\n",
    }  # fmt: skip
    for name, content in contents.items():
        words = ("--config", "run.yaml", "--overwrite", f"dataset.path={name}", "dataset.validation_size=4")
        yield BadInput("classifier", TRAIN, words, prepare=_write(name, content))
    for name in ("number.json", "deep.json", "cut.jsonl", "words.jsonl", "nul.jsonl", "digits.jsonl", "fake.parquet",
                 "fake.xlsx", "rows.exe", "utf16.jsonl", "wide_head.csv", "twice.csv"):  # fmt: skip
        words = ("--run", "run", "--strict", "--input_file", name)
        yield BadInput("classifier", INFER, words, prepare=_write(name, contents[name]))


def _extensions() -> Iterator[BadInput]:
    """Return folders without valid plugins, or with plugins that do harm on import."""
    contents: dict[str, str | bytes] = {
        "adapters/bad.py": "def attach(:", "adapters/raises.py": "1 / 0\nclass Config: pass\ndef attach(): pass",
        "adapters/ends.py": "import sys\nsys.exit(0)\nclass Config: pass\ndef attach(): pass",
        "adapters/lora.py": "class Config: pass\ndef attach(): pass",
        "adapters/no_class.py": "Config = 5\ndef attach(): pass",
        "adapters/Upper-Case.py": "class Config: pass\ndef attach(): pass",
        "metrics/nul.py": b"\0METRIC = 5", "metrics/latin.py": b"# \xff\nMETRIC = 5", "readme.txt": "nothing",
        "__init__.py": "raise SystemExit(0)",
        "optimizers/keys.py": "class Config: pass\ndef build_optimizer(): pass",
        "datasets/none.py": "class Config: pass\ndef describe_classification(): pass",
        "adapters/red.py": f"raise ValueError({ESCAPE!r})\nclass Config: pass\ndef attach(): pass",
        "metrics/table.py": "TABLE: dict = {1: 2, **{}}",
    }  # fmt: skip
    for number, (name, content) in enumerate(contents.items()):
        words = ("--config", "run.yaml", "--overwrite", f"extensions=[lab{number}]")
        yield BadInput("classifier", TRAIN, words, prepare=_write(f"lab{number}/{name}", content))


ALL: Mapping[str, Callable[[], Iterator[BadInput]]] = {
    "flags": _flags,
    "settings": _settings,
    "rows": _rows,
    "checkpoints": _checkpoints,
    "extensions": _extensions,
}
