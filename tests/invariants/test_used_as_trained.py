"""The trained model is the one used: predictions of inference.py in a new process, before and after merging."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils.core import registry

ROOT = Path(__file__).parents[2]
STEPS = {"training__max_steps": 20}
TEXTS = ["good w1 w2 w3", "the film was not bad", "w9", "a bad bad film w40 w41 w42 w43 w44 w45 w46", "good good film"]
NEW = ["<note>", "</note>"]
ALL = {"method": "lora", "lora_r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
LORA = {
    "plain": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
}
BITS = ("nf4", "int8")
TOKENS = {"model__extra_special_tokens": NEW}


def _peft(**keys):
    return {"peft": {**ALL, **keys}}


def _quantized(bits):
    return {"model__quantization": bits, "model__dtype": "float32"}


FAST = {
    "3 classes, dora": ("bert", 3, _peft(use_dora=True)),
    "3 classes, head-only": ("bert", 3, {"peft": {"method": "head-only"}}),
    "number, added tokens": ("llama", 1, {**_peft(), **TOKENS}),
    "language, tied, added tokens": ("sft", 0, {**_peft(modules_to_save=["norm"]), **TOKENS}),
    "language, nf4": ("sft", 0, {**_peft(), **_quantized("nf4")}),
}
WHOLE = {
    **{
        f"{family}, {labels} labels, {name}": (family, labels, _peft(**keys))
        for family in ("bert", "llama")
        for labels in (3, 1)
        for name, keys in LORA.items()
    },
    **{
        f"llama, {labels} labels, {bits}": ("llama", labels, {**_peft(), **_quantized(bits)})
        for labels in (3, 1)
        for bits in BITS
    },
    "qwen2, 3 labels, modules_to_save": ("qwen2", 3, _peft(modules_to_save=["embed_tokens"])),
    "bert, 3 labels, added tokens": ("bert", 3, {**_peft(), **TOKENS}),
    **{f"language, {name}": ("sft", 0, _peft(**keys)) for name, keys in LORA.items()},
    **{f"language, {bits}": ("sft", 0, {**_peft(), **_quantized(bits)}) for bits in BITS},
    **{
        f"language, {saved} saved": ("sft", 0, _peft(modules_to_save=[saved]))
        for saved in ("embed_tokens", "lm_head", "norm")
    },
    "language, added tokens": ("sft", 0, {**_peft(), **TOKENS}),
    "language, added tokens, nf4": ("sft", 0, {**_peft(), **TOKENS, **_quantized("nf4")}),
    "language, head adapted": ("sft", 0, _peft(target_modules=["q_proj", "lm_head"])),
}


def _list_methods():
    """Return one case per method with its own defaults, for each task it supports.

    One of peft's generic tuners stands for all, since they share our code.
    """
    cases = {}
    for name in registry.names("adapters"):
        if name != "vera" and hasattr(registry.load("adapters", name).Config, "TUNER"):
            continue
        limits = registry.load("adapters", name).Config.LIMITS
        method = {"peft": {"method": name.replace("_", "-")}}
        cases |= {f"{name}, {labels} labels": ("bert", labels, method) for labels in (3, 1)}
        if not limits.causal_lm:  # twenty random words would break the small model's generation
            few = (
                {"num_virtual_tokens": 2}
                if "num_virtual_tokens" in registry.load("adapters", name).Config.model_fields
                else {}
            )
            cases[f"{name}, language"] = ("sft", 0, {"peft": {**method["peft"], **few}})
    return cases


@pytest.fixture
def train_run(prepare_run, make_config, make_sft, make_set, draw_rows, tmp_path):
    """Return a function that trains a case and saves it as train.py does; the model stays in memory."""

    def label(rows, num_labels):
        names = ["no", "maybe", "yes"]
        return [
            {**row, "label": names[index % 3] if num_labels == 3 else 0.5 * (index % 9)}
            for index, row in enumerate(rows)
        ]

    def configure(family, num_labels, overrides):
        if not num_labels:
            return make_sft(**STEPS, **overrides)
        splits = {"train": label(draw_rows(40), num_labels), "validation": label(draw_rows(9, seed=1), num_labels)}
        data = make_set(f"set{num_labels}", **splits)
        keys = {"dataset__num_labels": num_labels, "training__eval_strategy": "no", "training__save_strategy": "no"}
        return make_config(family, data, **STEPS, **keys, training__load_best_model_at_end=False, **overrides)

    def train(number, case):
        from utils.runs import export
        from utils.runs.opening import open_run_folder

        family, num_labels, overrides = case
        config = configure(family, num_labels, {**overrides, "training__output_dir": str(tmp_path / f"run{number}")})
        folder = open_run_folder(config, None, False)
        run = prepare_run(config=config)
        export.write_data_facts(folder, run.config, run.data)
        run.trainer.train()
        export.export_model(folder, config, run.trainer, run.tokenizer, run.data)
        return SimpleNamespace(
            folder=Path(folder.path), config=config, model=run.trainer.model, tokenizer=run.tokenizer, data=run.data
        )

    return train


def _predict(model, run):
    """Predict independently of the tested code: row by row, without padding, cache or batches."""
    import torch

    from utils.trainer.varlen_attention import plain_attention

    with torch.no_grad(), plain_attention(model):
        model.eval()
        if run.config.task_type == "CAUSAL_LM":
            return [_write(model, run.tokenizer, question) for question in _read_questions()]
        cut = {"truncation": True, "max_length": run.config.dataset.max_length, "return_tensors": "pt"}
        logits = [model(**run.tokenizer(text, **cut)).logits[0].float() for text in TEXTS]
    names = run.data.label_names
    return [_name(each, names) if names else each.item() for each in logits]


def _name(logits, names):
    return dict(zip(names, logits.softmax(-1).tolist(), strict=True))


def _write(model, tokenizer, question):
    import torch

    ids = tokenizer(f"Question: {question}\nAnswer:", return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(16):
        token = model(input_ids=ids, use_cache=False).logits[0, -1].argmax()
        if token == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, token.reshape(1, 1)], dim=1)
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True)


def _read_questions():
    file = ROOT / "examples" / "quickstart" / "arithmetic" / "test.jsonl"
    return [json.loads(line)["question"] for line in file.read_text("utf-8").splitlines()[:4]]


def _ask(run, folder, target):
    """Return inference.py's arguments that answer the rows with a run's folder, or a merged one."""
    is_language = run.config.task_type == "CAUSAL_LM"
    source = target.with_suffix(".in.jsonl")
    rows = [{"question": each} for each in _read_questions()] if is_language else [{"text": each} for each in TEXTS]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--input_file", str(source), "--output_file", str(target)]
    words += ["--max_new_tokens", "16"] if is_language else []
    return ["--run", str(folder), *words]


def _merge(run, folder):
    """Merge by the command line; return None if the method has nothing to merge."""
    from utils.cli.command_line import run_cli

    if registry.load("adapters", run.config.peft.method).Config.LIMITS.merge:
        return None
    script = importlib.import_module("merge_adapter")
    words = ["--run", str(run.folder), "--output", str(folder), "--dtype", "float32", "--eval_rows", "0"]
    assert run_cli(script.main, script.build(), words) == 0
    return folder


def _predict_unquantized(run):
    """Load the adapter onto an unquantized base with plain peft, independently of our code."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    name, names = run.config.model.name_or_path, run.data.label_names
    if run.config.task_type == "CAUSAL_LM":
        base = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    else:
        num_labels = max(1, len(names))
        base = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32, num_labels=num_labels)
        base.config.pad_token_id = run.tokenizer.pad_token_id
    if len(run.tokenizer) > base.get_input_embeddings().num_embeddings:
        base.resize_token_embeddings(len(run.tokenizer), mean_resizing=False)
    return _predict(PeftModel.from_pretrained(base, run.folder / "final_model"), run)


def _read_answers(file):
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [row.get("probabilities", row.get("value", row.get("answer"))) for row in rows]


def _require_same(name, expected, found):
    assert len({str(each) for each in expected}) > 1, f"{name}: one answer for all rows would prove nothing"
    for one, other in zip(expected, found, strict=True):
        close = one if isinstance(one, str) else pytest.approx(one, abs=2e-4)
        assert other == close, name


def _require_used_as_trained(cases, train_run, tmp_path):
    lines, wanted = [], []
    for number, (name, case) in enumerate(cases.items()):
        run = train_run(number, case)
        expected = _predict(run.model, run)
        merged = _merge(run, tmp_path / f"merged{number}")
        quantized = merged is not None and run.config.model.quantization is not None
        plain = _predict_unquantized(run) if quantized else expected
        for folder, answers, what in ((run.folder, expected, name), (merged, plain, f"{name}, merged")):
            if folder is not None:
                target = tmp_path / f"{folder.name}.jsonl"
                lines.append(_ask(run, folder, target))
                wanted.append((what, answers, target))
    script = Path(__file__).parent / "answer_folders.py"
    done = subprocess.run(
        [sys.executable, str(script)], input=json.dumps(lines), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0] * len(lines), done.stderr
    for what, answers, target in wanted:
        _require_same(what, answers, _read_answers(target))


def test_a_new_process_answers_like_the_training_process(train_run, tmp_path):
    _require_used_as_trained(FAST, train_run, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cases", [WHOLE, _list_methods()], ids=["variants", "every method"])
def test_every_method_variant_and_base(cases, train_run, tmp_path):
    _require_used_as_trained(cases, train_run, tmp_path)
