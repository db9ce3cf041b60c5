"""Continuing from an existing adapter: training starts from it, and settings that contradict it are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.matrix.rows import list_rows
from utils.adapters.adapter import load_adapter
from utils.adapters.adapter_path import find_adapter_conflicts, load_start, read_adapter_config, resolve_section
from utils.core.errors import ConfigError, ModelError

METHODS = {each.method: each.keys for each in reversed(list_rows())}
REFUSED = ("adalora", "p-tuning", "none", "head-only")


def _randomise(model) -> None:
    import torch

    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)


@pytest.mark.parametrize("method", [each for each in METHODS if each not in REFUSED])
def test_every_method_starts_from_the_adapter(method, attach, read_logits, tmp_path):
    import torch

    room = load_adapter(method)
    family = "llama" if "bert" in room.Config.LIMITS.model_types else "bert"
    made = attach(family, method, num_training_steps=9, **METHODS[method])
    _randomise(made.model)
    room.save(made.model, tmp_path)
    expected = read_logits(room.load(tmp_path, made.load_base), made.tokenizer)
    bare = read_logits(attach(family, method, **METHODS[method]).model, made.tokenizer)
    assert not torch.allclose(expected, bare, atol=1e-3)

    section = room.Config(method=room.Config.model_fields["method"].default, adapter_path=str(tmp_path))
    own = read_adapter_config(section)
    assert list(find_adapter_conflicts(section, "SEQ_CLS", own)) == []
    settled = resolve_section(section, own)
    keys = settled.model_dump(exclude={"method"})
    begun = attach(family, method, num_training_steps=9, **keys)
    load_start(begun.model, settled, "base", allow_pickle=False)
    assert torch.equal(read_logits(begun.model, begun.tokenizer), expected)
    trained = {name: part for name, part in begun.model.named_parameters() if part.requires_grad}
    before = {name: part for name, part in made.model.named_parameters() if part.requires_grad}
    assert trained.keys() == before.keys()
    assert all(torch.equal(part, before[name]) for name, part in trained.items())


@pytest.mark.parametrize("method", REFUSED)
def test_adapters_that_cannot_be_continued_are_refused(method):
    section = load_adapter(method).Config(method=method, adapter_path="somewhere")
    kind = method.replace("-", "_").upper()
    ((key, message),) = find_adapter_conflicts(section, "SEQ_CLS", {"peft_type": kind, "task_type": "SEQ_CLS"})
    assert key == "adapter_path"
    assert f"not with method: {method}" in message


@pytest.fixture
def foreign(make_sft, tmp_path):
    """Make an adapter with peft alone on the embedded base; return its folder and the model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(make_sft().model.name_or_path)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=2, lora_alpha=7, lora_dropout=0.1, target_modules=["q_proj", "down_proj"],
        rank_pattern={"q_proj": 3}, use_rslora=True, modules_to_save=["norm"],
    )  # fmt: skip
    adapted = get_peft_model(base, config)
    _randomise(adapted)
    adapted.save_pretrained(tmp_path / "foreign")
    return tmp_path / "foreign", adapted.eval()


def _start(folder, **keys):
    return {"method": "lora", "adapter_path": str(folder), **keys}


def test_an_adapter_made_by_peft_alone_is_loaded_unchanged_and_trained(foreign, make_sft, prepare_run):
    import torch

    from utils.trainer.varlen_attention import plain_attention

    folder, adapted = foreign
    run = prepare_run(config=make_sft(peft=_start(folder, lora_dropout=0.2), training__max_steps=2))
    peft = run.config.peft
    assert (peft.lora_r, peft.lora_alpha, peft.rank_pattern, peft.use_rslora) == (2, 7, {"q_proj": 3}, True)
    assert (set(peft.target_modules), peft.modules_to_save) == ({"q_proj", "down_proj"}, ["norm"])
    assert peft.lora_dropout == 0.2, "training settings come from the file"
    ids = run.tokenizer("Tom has 5 pens and buys 7 more.", return_tensors="pt")["input_ids"]
    with torch.no_grad(), plain_attention(run.model):
        assert torch.equal(run.model.eval()(ids).logits, adapted(ids).logits)
    before = {name: part.detach().clone() for name, part in run.model.named_parameters() if part.requires_grad}
    run.trainer.train()
    after = dict(run.model.named_parameters())
    assert all(not torch.equal(part, after[name]) for name, part in before.items())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"lora_r": 4}, r"peft\.lora_r: is 4, and the adapter in .*foreign has 2; leave the key out"),
        ({"lora_alpha": 8}, r"peft\.lora_alpha: is 8.*, and the adapter in .*foreign has 7;"),
        ({"use_rslora": False}, r"peft\.use_rslora: is False, and the adapter in .* has True"),
        ({"rank_pattern": {"q_proj": 5}}, r"peft\.rank_pattern: is .*5.*, and the adapter in .* has .*3"),
        ({"init_lora_weights": "pissa"}, r"peft\.init_lora_weights: pissa is not beside adapter_path"),
        ({"method": "vera"}, r"peft\.method: is vera, and the adapter in .*foreign is of lora; set it to lora"),
    ],
)
def test_a_contradiction_names_both_values(keys, said, foreign, make_sft):
    with pytest.raises(ConfigError, match=said):
        make_sft(peft=_start(foreign[0], **keys))


def test_differing_target_layers_are_detected_from_tensors(foreign, make_sft, prepare_run):
    keys = _start(foreign[0], target_modules=["q_proj", "up_proj"])
    with pytest.raises(ModelError, match=r"adapter_path.*lacks 8 tensors such as .*up_proj\.lora_A\.weight"):
        prepare_run(config=make_sft(peft=keys))
    keys = _start(foreign[0], target_modules=["down_proj", "q_proj"], modules_to_save=["norm"])
    assert prepare_run(config=make_sft(peft=keys)).config.peft.lora_r == 2


def test_another_base_task_or_field_is_refused(foreign, make_sft, make_config, tiny_base, tmp_path):
    folder, _ = foreign
    base = make_sft().model.name_or_path
    other = str(tiny_base("llama"))
    with pytest.raises(ConfigError, match=rf"adapter_path: .*names the base {base}, and .* names {other}"):
        make_sft(peft=_start(folder), model__name_or_path=other, sft={"max_length": 32})
    with pytest.raises(ConfigError, match="is for CAUSAL_LM, and the file for SEQ_CLS"):
        make_config("llama", model__name_or_path=base, peft=_start(folder))
    with pytest.raises(ConfigError, match=r"adapter_path: .*nowhere.*cannot be read"):
        make_sft(peft=_start(tmp_path / "nowhere"))
    file = folder / "adapter_config.json"
    made = json.loads(file.read_text())
    file.write_text(json.dumps({**made, "lora_bias": True}))
    with pytest.raises(ConfigError, match="has lora_bias: True, which cannot be trained on here"):
        make_sft(peft=_start(folder))


def test_chat_template_and_tokens_of_the_adapters_run_are_used(foreign, make_sft, tmp_path):
    folder, _ = foreign
    run = {"model": {"chat_template": "my.jinja", "extra_special_tokens": ["<|turn|>"], "pad_token": None}}
    run["peft"] = {"target_modules": "all-linear"}
    (folder / "run.yaml").write_text(json.dumps(run))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    config = make_sft(peft=_start(folder))
    assert config.model.chat_template == str(folder / "chat_template.jinja"), "my.jinja no longer exists"
    assert config.model.extra_special_tokens == ["<|turn|>"]
    assert config.peft.target_modules == "all-linear", "not the list that peft makes from it"
    assert any("taken from its run: model.chat_template" in each for each in config.notices)
    assert make_sft(peft=_start(folder), model__chat_template="chatml").model.chat_template == "chatml", "the file's"


@pytest.mark.parametrize("family", ["bert", pytest.param("sft", marks=pytest.mark.slow)])
def test_a_run_can_continue_from_another_runs_adapter(family, make_config, make_sft, tmp_path):
    import shutil

    import train
    from utils.runs.open_model import open_run

    def run(name, **keys):
        overrides = {"training__output_dir": str(tmp_path / name), "training__max_steps": 2, **keys}
        config = make_sft(**overrides) if family == "sft" else make_config(family, **overrides)
        words = ["--config", config.source]
        return Path(train.main(train.build().parse_args(words))["output_dir"])

    first = run("first")
    second = run("second", peft={"adapter_path": str(first)}, training__learning_rate=1e-9)
    trained = open_run(second)
    assert trained.config.peft.lora_r == 4
    for file in ("results.json", "provenance.json"):
        assert json.loads((second / file).read_text())["adapter"]["path"] == str(first / "final_model")
    weights = [_read_weights(each / "final_model") for each in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    assert all(abs(part - weights[1][name]).max() < 1e-6 for name, part in weights[0].items())
    shutil.rmtree(first)
    assert open_run(second).load()[0] is not None, "the second run no longer needs the first"


def _read_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def test_the_classes_keep_the_adapters_order(attach, make_config, make_set, draw_rows, prepare_run, tmp_path):
    """The head comes with the adapter: the same classes in another order would be mislabelled."""
    from utils.core.errors import DataError

    made = attach("bert", "lora", num_labels=2)
    made.plugin.save(made.model, tmp_path / "made")
    (tmp_path / "made" / "labels.json").write_text('["no", "Bad"]')

    def run(*names):
        rows = [{**row, "label": names[row["label"]]} for row in draw_rows(12)]
        data = make_set(train=rows, validation=rows)
        return prepare_run(config=make_config("bert", data, peft={"adapter_path": str(tmp_path / "made")}))

    prepared = run("bad", "no")
    assert prepared.data.label_names == ("no", "bad")
    assert set(prepared.data.train.dataset["labels"][:]) == {0, 1}
    with pytest.raises(DataError, match=r"adapter_path: .*made: .* never learned the classes yes .*; it knows no, Bad"):
        run("yes", "no")
