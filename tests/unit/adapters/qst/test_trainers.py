"""QST through the adapter method, Trainer and SFTTrainer, with quantized backbones, packed and unpacked."""

from __future__ import annotations

import pytest
import torch

from utils.adapters.peft_layout import preserve_quantized
from utils.core.errors import ConfigError, ModelError

FAMILIES = ("llama", "qwen2", "gpt2", "bert", "roberta", "distilbert", "deberta_v2", "modernbert")


def _side(model):
    return {name: p for name, p in model.named_parameters() if "qst_" in name}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_method_attaches_trains_saves_and_loads(attach, train_a_few_steps, read_logits, tmp_path, family):
    base = attach(family, "none")
    attached = attach(family, "qst", reduction_factor=4)
    start = read_logits(attached.model, attached.tokenizer)
    assert torch.equal(start, read_logits(base.model, base.tokenizer))
    train_a_few_steps(attached)
    trained = read_logits(attached.model, attached.tokenizer)
    assert (trained - start).abs().max() > 1e-3
    attached.plugin.save(attached.model, tmp_path)
    again = attached.plugin.load(tmp_path, attached.load_base)
    assert torch.equal(read_logits(again, attached.tokenizer), trained)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_quantized_backbone(attach, train_a_few_steps, read_logits, tiny_base, tmp_path, family, quantization):
    model = {"name_or_path": str(tiny_base(family, 64)), "quantization": quantization}
    attached = attach(family, "qst", model=model, reduction_factor=4)
    before = read_logits(attached.model, attached.tokenizer)
    assert torch.equal(before, read_logits(preserve_quantized(attached.load_base(None)), attached.tokenizer))
    assert {p.dtype for p in _side(attached.model).values()} == {torch.float32}
    packed = {n: p.detach().clone() for n, p in attached.model.named_parameters() if not p.requires_grad}
    train_a_few_steps(attached)
    trained = read_logits(attached.model, attached.tokenizer)
    assert (trained - before).abs().max() > 1e-3
    assert all(torch.equal(p, packed[n]) for n, p in attached.model.named_parameters() if n in packed)
    attached.plugin.save(attached.model, tmp_path)
    again = attached.plugin.load(tmp_path, attached.load_base)
    assert torch.equal(read_logits(again, attached.tokenizer), trained)


def test_packed_weights_count_half(attach, tiny_base):
    from utils.modeling.sizes import count_parameters

    model = {"name_or_path": str(tiny_base("llama", 64))}
    plain = count_parameters(attach("llama", "qst", model=model, reduction_factor=4).model)
    packed = count_parameters(attach("llama", "qst", model={**model, "quantization": "nf4"}, reduction_factor=4).model)
    assert (plain.trainable, plain.total) == (packed.trainable, packed.total)
    assert plain.trainable_percent == packed.trainable_percent == plain.trainable_percent_packed
    in_layers = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)  # two layers: q and o, k and v, and the MLP
    assert packed.trainable_percent_packed == pytest.approx(100 * packed.trainable / (packed.total - in_layers / 2))


def test_settings_the_method_refuses(attach):
    with pytest.raises(ModelError, match=r"peft.reduction_factor: 5 does not divide hidden_size 32"):
        attach("bert", "qst", reduction_factor=5)
    with pytest.raises(ModelError, match=r"peft.side_layers: .9. are not layers"):
        attach("bert", "qst", side_layers=[9])
    with pytest.raises(ConfigError, match="trains no embeddings"):
        attach("llama", "qst", model={"extra_special_tokens": ["<new>"]})


def test_the_side_network_follows_the_seed(attach):
    one, two = (attach("bert", "qst", reduction_factor=4).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_trained_parameters_are_float32_under_autocast(attach):
    keys = {"model": {"dtype": "bfloat16"}, "mixed_precision": True, "reduction_factor": 4}
    model = attach("bert", "qst", **keys).model
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_the_trainer_keeps_the_best_checkpoint_and_resumes(build_base, attach_side_network, draw_batch, tmp_path):
    from transformers import Trainer, TrainingArguments

    batch = draw_batch()
    rows = [{"input_ids": batch["input_ids"][i], "attention_mask": batch["attention_mask"][i], "labels": i % 2}
            for i in range(4)] * 2  # fmt: skip

    def build(steps):
        arguments = TrainingArguments(
            str(tmp_path / "run"), max_steps=steps, per_device_train_batch_size=4, learning_rate=0.01, use_cpu=True,
            eval_strategy="steps", eval_steps=2, save_steps=2, load_best_model_at_end=True, report_to="none",
            logging_steps=1, disable_tqdm=True, gradient_checkpointing=True,
        )  # fmt: skip
        adapted = attach_side_network(build_base("bert", "SEQ_CLS"), scattered=False)
        return Trainer(adapted, arguments, train_dataset=rows, eval_dataset=rows)

    whole = build(6)
    whole.train()
    losses = [log["loss"] for log in whole.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
    best = whole.evaluate()["eval_loss"]
    assert best == pytest.approx(min(log["eval_loss"] for log in whole.state.log_history if "eval_loss" in log))
    resumed = build(6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    again = [log["loss"] for log in resumed.state.log_history if "loss" in log]
    assert again[-2:] == losses[-2:]


@pytest.mark.parametrize("quantized", [False, True])
def test_trl_accepts_it_as_peft_config(attach, load_tokenizer_of, tiny_base, tmp_path, quantized):
    """On a quantized backbone TRL casts trained parameters to bfloat16, where gates never move; ours does not."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    from utils.adapters.qst import QSTConfig

    tokenizer = load_tokenizer_of("llama")
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4") if quantized else None
    model = AutoModelForCausalLM.from_pretrained(tiny_base("llama", 64), dtype=torch.float32, quantization_config=nf4)
    arguments = SFTConfig(
        str(tmp_path), max_steps=3, per_device_train_batch_size=4, learning_rate=0.01, use_cpu=True, bf16=False,
        report_to="none", logging_steps=1, disable_tqdm=True, max_length=16, save_strategy="no",
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "good w1 ", "completion": f"film w{index}"} for index in range(8)])
    config = QSTConfig(task_type="CAUSAL_LM", reduction_factor=4)
    trainer = SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer, peft_config=config)
    before = {name: p.detach().clone() for name, p in _side(trainer.model).items()}
    assert all(p.requires_grad for p in _side(trainer.model).values())
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
    assert not [name for name, p in _side(trainer.model).items() if torch.equal(p, before[name]) and "weight" in name]
    assert {p.dtype for p in _side(trainer.model).values()} == {torch.bfloat16 if quantized else torch.float32}


@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
def test_train_py_with_any_backbone(prepare_run, make_sft, quantization):
    """Our trainer keeps trained parameters in float32, also where TRL would not."""
    keys = {"model__quantization": quantization} if quantization else {}
    peft = {"method": "qst", "reduction_factor": 4}
    run = prepare_run(config=make_sft(peft=peft, training__max_steps=3, **keys))
    before = {name: p.detach().clone() for name, p in _side(run.trainer.model).items()}
    assert {p.dtype for p in before.values()} == {torch.float32}
    run.trainer.train()
    after = _side(run.trainer.model)
    assert not [name for name, p in after.items() if name.endswith("gates") and torch.equal(p, before[name])]
    assert {p.dtype for p in after.values()} == {torch.float32}


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_train_py_trains_a_classifier(prepare_run, family):
    peft = {"method": "qst", "reduction_factor": 4}
    run = prepare_run(family, peft=peft, training__max_steps=12, training__logging_steps=1)
    run.trainer.train()
    losses = [log["loss"] for log in run.trainer.state.log_history if "loss" in log]
    assert min(losses[-3:]) < losses[0]
    trained = {n for n, p in run.model.named_parameters() if p.requires_grad}
    assert trained
    assert not [name for name in trained if "qst_" not in name and "modules_to_save" not in name]


@pytest.mark.parametrize("dtype", ["int8", "bf16"])
def test_scores_use_exact_states_despite_a_rounding_cache(make_config, dtype):
    """The rounded states of previously evaluated rows are not what the saved model computes."""
    import importlib
    import json
    from pathlib import Path

    config = make_config(
        "llama", peft={"method": "qst", "reduction_factor": 4, "cache": {"where": "ram", "dtype": dtype}},
        training__num_train_epochs=3, training__report_to="none",
    )  # fmt: skip
    train = importlib.import_module("train")
    arguments = train.build().parse_args(["--config", config.source])
    arguments.overrides = []
    run = Path(train.main(arguments)["output_dir"])
    record = json.loads((run / "results.json").read_text())
    assert record["backbone_cache"]["num_tokens_replayed"] > 0, "training rows come from the cache"
    assert record["reload_check"]["largest_logit_difference"] < 1e-5


def test_another_seed_reuses_the_states_on_disk(prepare_run, make_set, tmp_path):
    """The seed changes row order, held-out rows, head and side network, but not the backbone's states."""
    rows = [
        {"text": f"{word} {' word' * (index % 5)}", "label": index % 2} for index, word in enumerate("abcdefghijkl")
    ]
    cache = {"where": "disk", "dir": str(tmp_path / "states")}
    peft = {"method": "qst", "reduction_factor": 4, "cache": cache}
    keys = {"data": make_set("unsplit", train=rows), "dataset__validation_size": 4, "peft": peft}
    calls, held_out = [], []
    for seed in (1, 2):
        run = prepare_run("bert", seed=seed, **keys)
        tuner = run.model.base_model
        first = tuner.model.get_submodule(tuner.backbone.layers_path)[0]
        calls.append(0)

        def count(*_):
            calls[-1] += 1

        first.register_forward_hook(count)
        run.trainer.train()
        held_out.append([row["input_ids"] for row in run.data.evals[""].dataset])
    assert held_out[0] != held_out[1], "they depend on the seed"
    assert calls[0] > 0
    assert calls[1] == 0, "the backbone's layers are skipped from the first step on"
