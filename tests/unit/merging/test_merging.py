"""Every LoRA variant on every kind of model: the merged model, loaded by plain transformers, is the trained one."""

from __future__ import annotations

import json
import logging

import pytest

from utils.core.errors import CheckError, ModelError, UserError
from utils.merging.merging import MergeOptions, merge_adapter
from utils.merging.source import open_adapter_run

TEXTS = ["good w1 w2 w3", "the film was not bad", "w9", "a bad bad film w40 w41 w42 w43 w44 w45 w46"]
SUMS = ["Question: Tom has 4 apples and buys 3 more. How many?\nAnswer: 7", "the 12 birds", "Anna lost 5 of 9 pens."]
NEW = ["<note>", "</note>"]
ALL = {"peft__target_modules": "all-linear"}

CLASSIFIERS = {
    "bert": ("bert", {}),
    "bert dora": ("bert", {"peft__use_dora": True, **ALL}),
    "bert rslora": ("bert", {"peft__use_rslora": True, "peft__lora_r": 8}),
    "bert bias all": ("bert", {"peft__bias": "all"}),
    "bert bias lora_only": ("bert", {"peft__bias": "lora_only"}),
    "bert added tokens": ("bert", {"model__extra_special_tokens": NEW}),
    "roberta gaussian": ("roberta", {"peft__init_lora_weights": "gaussian"}),
    "llama": ("llama", ALL),
    "llama dora": ("llama", {"peft__use_dora": True}),
    "llama added tokens": ("llama", {"model__extra_special_tokens": NEW}),
    "llama ranks": ("llama", {"peft__rank_pattern": {"q_proj": 2}, "peft__alpha_pattern": {"v_proj": 3}}),
    "qwen2 modules_to_save": ("qwen2", {"peft__modules_to_save": ["embed_tokens"]}),
    "gpt2": ("gpt2", {}),
    "gpt2 dora": ("gpt2", {"peft__use_dora": True, **ALL}),
    "albert": ("albert", {}),
    "distilbert": ("distilbert", {}),
    "deberta": ("deberta_v2", {}),
    "modernbert": ("modernbert", {}),
}
LANGUAGE = {
    "plain": {},
    "dora": {"peft__use_dora": True},
    "rslora": {"peft__use_rslora": True},
    "bias all": {"peft__bias": "all"},
    "gaussian": {"peft__init_lora_weights": "gaussian"},
    "random B": {"peft__init_lora_weights": False},
    "modules_to_save body": {"peft__modules_to_save": ["norm"]},
    "added tokens": {"model__extra_special_tokens": NEW},
}
UNTIED = {  # this makes a tied base's two matrices differ
    "embeddings saved": {"peft__modules_to_save": ["embed_tokens"]},
    "head saved": {"peft__modules_to_save": ["lm_head"]},
    "embeddings adapted": {"peft__target_modules": ["q_proj", "embed_tokens"]},
    "head adapted": {"peft__target_modules": ["q_proj", "lm_head"]},
}


def ask_classifier(model, tokenizer):
    """Compute logits independently of the tested code: row by row, without padding."""
    import torch

    with torch.no_grad():
        rows = [tokenizer(text, return_tensors="pt") for text in TEXTS]
        return torch.cat([model.eval()(**row).logits for row in rows])


def ask_language_model(model, tokenizer):
    """Compute logits independently of the tested code; a model in training attends within packed documents."""
    import torch

    from utils.trainer.varlen_attention import plain_attention

    with torch.no_grad(), plain_attention(model):
        ids = [tokenizer(text + "".join(NEW), return_tensors="pt")["input_ids"] for text in SUMS]
        return torch.cat([model.eval()(input_ids=each).logits[0] for each in ids])


def read_by_library(folder, classifier):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    auto = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    return auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def require_equal(expected, found, tolerance=1e-4):
    largest = float(expected.abs().max())
    assert float((expected - found).abs().max()) <= tolerance * max(largest, 1e-3)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_merged(name, make_config, train_run, tmp_path):
    family, overrides = CLASSIFIERS[name]
    run = train_run(make_config(family, **overrides))
    expected = ask_classifier(run.trainer.model, run.tokenizer)
    report = merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "merged"), MergeOptions())
    model, tokenizer = read_by_library(tmp_path / "merged", classifier=True)
    assert type(model).__name__.endswith("ForSequenceClassification")
    require_equal(expected, ask_classifier(model, tokenizer))
    assert report["probe"]["update_kept"] == pytest.approx(1, abs=1e-2)
    assert report["scores"]["adapter"] == report["scores"]["merged"]
    assert report["scores"]["rows"] == 17
    assert model.config.id2label == {0: "0", 1: "1"}
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert not (tmp_path / "merged" / "run.yaml").exists()


@pytest.mark.parametrize(("labels", "kind"), [(3, "classes"), (1, "regression")])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_three_classes_and_regression(family, labels, kind, make_config, make_set, draw_rows, train_run, tmp_path):
    def label(rows):
        names = ["no", "maybe", "yes"]
        return [
            {**row, "label": names[index % 3] if labels == 3 else 0.5 * (index % 9)} for index, row in enumerate(rows)
        ]

    data = make_set(train=label(draw_rows(40)), validation=label(draw_rows(17, seed=1)))
    run = train_run(make_config(family, data, dataset__num_labels=labels))
    expected = ask_classifier(run.trainer.model, run.tokenizer)
    report = merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "merged"), MergeOptions())
    model, tokenizer = read_by_library(tmp_path / "merged", classifier=True)
    found = ask_classifier(model, tokenizer)
    assert found.shape == (len(TEXTS), labels)
    require_equal(expected, found)
    problem = "regression" if kind == "regression" else "single_label_classification"
    assert model.config.problem_type == problem
    if labels == 3:
        assert [model.config.id2label[index] for index in range(3)] == list(run.data.label_names)
        assert sorted(run.data.label_names) == ["maybe", "no", "yes"]
    else:
        assert report["probe"]["top1_agreement"] is None
    first, second = (report["scores"][each] for each in ("adapter", "merged"))
    assert first == pytest.approx(second, abs=1e-5)
    assert first


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("gaussian", "random B", "bias all", "rslora") else name
        for name in LANGUAGE
    ],
)
def test_a_language_model_is_merged(name, make_sft, train_run, tmp_path):
    run = train_run(make_sft(**LANGUAGE[name]))
    expected = ask_language_model(run.trainer.model, run.tokenizer)
    report = merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "merged"), MergeOptions())
    model, tokenizer = read_by_library(tmp_path / "merged", classifier=False)
    require_equal(expected, ask_language_model(model, tokenizer))
    assert report["tied_embeddings"] is True
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert report["scores"]["adapter"] == pytest.approx(report["scores"]["merged"], rel=1e-5)
    assert (report["probe"]["rows"], report["scores"]["rows"]) == (40, 40)


@pytest.mark.parametrize("name", UNTIED)
def test_untied_embeddings_are_both_written(name, make_sft, train_run, tmp_path):
    run = train_run(make_sft(**UNTIED[name]))
    expected = ask_language_model(run.trainer.model, run.tokenizer)
    report = merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "merged"), MergeOptions())
    model, tokenizer = read_by_library(tmp_path / "merged", classifier=False)
    require_equal(expected, ask_language_model(model, tokenizer))
    assert report["tied_embeddings"] is False
    assert model.config.tie_word_embeddings is False


def test_added_tokens_on_an_untied_base(make_sft, train_run, tiny_base, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = make_sft().model.name_or_path
    model = AutoModelForCausalLM.from_pretrained(base)
    import torch

    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 1.1)
    model._tied_weights_keys, model.all_tied_weights_keys = None, {}
    model.save_pretrained(tmp_path / "untied")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "untied")
    run = train_run(make_sft(model__name_or_path=str(tmp_path / "untied"), model__extra_special_tokens=NEW))
    expected = ask_language_model(run.trainer.model, run.tokenizer)
    report = merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "merged"), MergeOptions())
    merged, tokenizer = read_by_library(tmp_path / "merged", classifier=False)
    assert len(tokenizer(NEW[0], add_special_tokens=False)["input_ids"]) == 1
    require_equal(expected, ask_language_model(merged, tokenizer))
    assert report["tied_embeddings"] is None
    assert not torch.equal(merged.lm_head.weight, merged.get_input_embeddings().weight)


def test_single_tokens_are_merged(make_sft, train_run, tmp_path):
    peft = {"method": "trainable_tokens", "token_indices": [5, 9]}
    run = train_run(make_sft(peft=peft, model__extra_special_tokens=NEW, training__learning_rate=0.1))
    expected = ask_language_model(run.trainer.model, run.tokenizer)
    merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "merged"), MergeOptions())
    model, tokenizer = read_by_library(tmp_path / "merged", classifier=False)
    require_equal(expected, ask_language_model(model, tokenizer))


@pytest.mark.parametrize("bits", ["nf4", "int8"])
@pytest.mark.parametrize("task", ["classifier", "language model"])
def test_a_quantized_base_is_merged_unquantized(task, bits, make_config, make_sft, train_run, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    classifier = task == "classifier"
    config = make_config("llama", **ALL) if classifier else make_sft()
    model = config.model.model_dump()
    name = model["name_or_path"]
    make = (lambda **more: make_config("llama", **ALL, **more)) if classifier else make_sft
    run = train_run(make(model__quantization=bits, model__dtype="float32"))
    report = merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "merged"), MergeOptions(dtype="float32"))
    merged, tokenizer = read_by_library(tmp_path / "merged", classifier)
    ask = ask_classifier if classifier else ask_language_model
    kind = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    base = kind.from_pretrained(name, dtype=torch.float32)
    base.config.pad_token_id = tokenizer.pad_token_id
    adapted = PeftModel.from_pretrained(base, run.folder / "final_model")
    require_equal(ask(adapted, tokenizer), ask(merged, tokenizer))
    assert not hasattr(merged.config, "quantization_config")
    as_trained = report["as_trained"]
    assert as_trained["quantization"] == bits
    assert as_trained["largest_difference"] > 10 * report["probe"]["largest_difference"]
    assert set(as_trained["score"]) == set(report["scores"]["merged"])
    assert (ask(run.trainer.model, tokenizer) - ask(merged, tokenizer)).abs().max() > 1e-3, "the bases do differ"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype, make_sft, train_run, tmp_path):
    from safetensors.torch import load_file

    run = train_run(make_sft())
    report = merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "merged"), MergeOptions(dtype=dtype))
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {f"torch.{dtype}"}
    assert report["dtype"] == dtype
    assert 0 < report["probe"]["largest_difference"] < report["probe"]["tolerance"]
    assert report["probe"]["update_kept"] == pytest.approx(1, abs=0.1)


def test_dtype_auto_of_a_quantized_run_is_bfloat16(make_config, train_run, tmp_path):
    run = train_run(make_config("bert", model__quantization="nf4"))
    report = merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "merged"), MergeOptions())
    assert report["dtype"] == "bfloat16"


def drop_update(model):
    """Remove the adapter without merging it, as a broken merge might."""
    return model.unload()


def corrupt_weights(model):
    import torch

    merged = model.merge_and_unload()
    with torch.no_grad():
        merged.get_input_embeddings().weight[5:40] += 0.5
    return merged


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("corruption", [drop_update, corrupt_weights])
def test_a_broken_merge_is_detected(corruption, dtype, make_sft, train_run, tmp_path, monkeypatch):
    run = train_run(make_sft())
    monkeypatch.setattr("utils.adapters.lora.merge", corruption)
    with pytest.raises(CheckError, match="merged model"):
        merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "out" / "merged"), MergeOptions(dtype=dtype))
    assert list(tmp_path.glob("out/*")) == []


def test_a_small_lost_update_is_detected_in_bfloat16(make_sft, train_run, tmp_path, monkeypatch):
    """Its effect is below the tolerance, so that only the share of it that was kept can tell."""
    run = train_run(make_sft(training__learning_rate=6e-4))
    source, options = open_adapter_run(str(run.folder)), MergeOptions(dtype="bfloat16")
    probe = merge_adapter(source, str(tmp_path / "good"), options)["probe"]
    assert probe["update_effect"] < probe["tolerance"]
    monkeypatch.setattr("utils.adapters.lora.merge", drop_update)
    with pytest.raises(CheckError, match="keeps only"):
        merge_adapter(source, str(tmp_path / "merged"), options)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_that_is_not_finite_is_refused(make_config, train_run, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    run = train_run(make_config("bert"))
    file = run.folder / "final_model" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({**tensors, name: torch.full_like(tensors[name], float("nan"))}, file)
    with pytest.raises(ModelError, match="not finite"):
        merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "merged"), MergeOptions())
    assert not (tmp_path / "merged").exists()


def test_shards_checkpoints_and_overwriting(make_sft, train_run, tmp_path, caplog):
    run = train_run(make_sft(training__save_strategy="steps", training__save_steps=3, training__max_steps=6))
    output = tmp_path / "merged"
    merge_adapter(open_adapter_run(str(run.folder)), str(output), MergeOptions(max_shard_size="1MB"))
    index = json.loads((output / "model.safetensors.index.json").read_text("utf-8"))
    assert len(set(index["weight_map"].values())) > 2
    with pytest.raises(UserError, match="is not empty"):
        merge_adapter(open_adapter_run(str(run.folder)), str(output), MergeOptions())
    with caplog.at_level(logging.WARNING):
        checkpoint = open_adapter_run(str(run.folder / "checkpoint-3"))
        report = merge_adapter(checkpoint, str(output), MergeOptions(overwrite=True, num_eval=0))
    assert report["source"]["weights"] == str(run.folder / "checkpoint-3")
    assert report["probe"]["source"] == "probe_rows.jsonl"
    assert report["scores"]["merged"] is None
    [old] = [each for each in tmp_path.iterdir() if each.name.startswith("merged.old_")]
    assert f"the previous content is now {old.name}" in caplog.text
    assert (old / "model.safetensors.index.json").is_file()
    assert (output / "model.safetensors").is_file()
    with pytest.raises(UserError, match="contains the model to be merged"):
        merge_adapter(open_adapter_run(str(run.folder)), str(run.folder), MergeOptions(overwrite=True))


def test_without_probe_rows_and_data(make_config, make_set, draw_rows, train_run, tmp_path, caplog):
    import shutil

    data = make_set(train=draw_rows(40), validation=draw_rows(17, seed=1))
    run = train_run(make_config("llama", data))
    (data / "validation.jsonl").unlink()
    (data / "train.jsonl").unlink()
    report = merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "first"), MergeOptions())
    assert report["scores"]["source"] == "the rows of probe_rows.jsonl"
    assert report["scores"]["rows"] == 17
    shutil.rmtree(data)
    (run.folder / "probe_rows.jsonl").unlink()
    report = merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "second"), MergeOptions())
    assert report["probe"]["source"] == "built-in texts"
    assert report["scores"] == {
        "rows": 0, "source": "no labelled rows are available", "names": [], "adapter": None, "merged": None,
    }  # fmt: skip
    assert "the run has no probe rows" in caplog.text


def test_a_full_disk_is_reported_before_writing(make_config, train_run, tmp_path, monkeypatch):
    import shutil
    from collections import namedtuple

    run = train_run(make_config("bert"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1000))
    with pytest.raises(UserError, match=r"needs 0\.1 GiB, and 0\.0 GiB are free"):
        merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "merged"), MergeOptions())
    assert not list(tmp_path.glob("merged*"))
