"""peft's other tuners by their own fields: checked without peft, attached with it, and used as trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from utils.core.errors import ConfigError, ModelError

BASE = Path(__file__).parents[3] / "examples" / "quickstart" / "base"
SMALL = {
    "vera": {"r": 16}, "oft": {"oft_block_size": 8}, "loha": {"r": 4}, "miss": {"r": 8}, "hra": {"r": 4},
    "fourierft": {"n_frequency": 50}, "road": {"group_size": 16}, "c3a": {"block_size": 16},
    "waveft": {"n_frequency": 50}, "ln_tuning": {}, "boft": {}, "lokr": {"r": 4}, "randlora": {"r": 4}, "delora": {},
}  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("method", ["vera", "oft", "loha", "miss", "hra"])
def test_five_tuners_train_reload_and_merge(attach, train_a_few_steps, read_logits, tmp_path, method, family):
    attached = attach(family, method, **SMALL[method])
    before = read_logits(attached.model, attached.tokenizer)
    train_a_few_steps(attached)
    trained = read_logits(attached.model, attached.tokenizer)
    assert (trained - before).abs().max() > 1e-3
    attached.plugin.save(attached.model, tmp_path)
    loaded = attached.plugin.load(tmp_path, attached.load_base)
    assert (read_logits(loaded, attached.tokenizer) - trained).abs().max() < 1e-6
    merged = attached.plugin.merge(loaded)
    assert (read_logits(merged, attached.tokenizer) - trained).abs().max() < 1e-3


@pytest.mark.parametrize("method", ["vera", "loha", "miss", "ln_tuning", "road", "fourierft"])
def test_a_head_of_several_layers_survives_merging(attach, train_a_few_steps, read_logits, method):
    attached = attach("roberta", method, **SMALL[method])
    train_a_few_steps(attached)
    trained = read_logits(attached.model, attached.tokenizer)
    merged = attached.plugin.merge(attached.model)
    assert (read_logits(merged, attached.tokenizer) - trained).abs().max() < 1e-3


@pytest.mark.parametrize("method", SMALL)
def test_the_head_is_fully_trained_and_never_wrapped(attach, method):
    """all-linear would adapt parts of DistilBERT's two-layer head."""
    keys = {} if method == "ln_tuning" else {"target_modules": "all-linear"}
    model = attach("distilbert", method, **{**SMALL[method], **keys}).model
    base = model.get_base_model()
    for head in ("pre_classifier", "classifier"):
        wrapped = base.get_submodule(head)
        assert type(wrapped).__name__ == "ModulesToSaveWrapper"
        assert all(part.requires_grad for part in wrapped.modules_to_save.parameters())
    layer = base.distilbert.transformer.layer[0]
    changed = [name for name, part in layer.named_parameters() if part.requires_grad]
    assert changed


def test_only_norms_are_trained(attach):
    with pytest.raises(ModelError, match=r"q_proj is a linear layer, and ln_tuning is for norms; leave it out"):
        attach("llama", "ln_tuning", target_modules=["q_proj"])
    with pytest.raises(ModelError, match=r"q_proj is a linear layer, and shadow is for decoder blocks; leave it out"):
        attach("llama", "shadow", target_modules=["q_proj"])


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "gpt2", "bert", "roberta", "distilbert", "albert", "deberta_v2", "modernbert"]
)
def test_all_norms_of_the_body_are_trained(attach, family):
    """A norm's weight is a vector, and no other module's weight is."""
    attached = attach(family, "ln_tuning")
    body = {name: p for name, p in attached.model.named_parameters() if "modules_to_save" not in name}
    trained = {name.split(".ln_tuning_layers")[0] for name, p in body.items() if p.requires_grad}
    plain = attached.load_base(None)
    head = ("classifier", "score", "pre_classifier", "head", "pooler")
    vectors = {
        name for name, module in plain.named_modules()
        if getattr(module, "weight", None) is not None and module.weight.dim() == 1 and name.split(".")[0] not in head
    }  # fmt: skip
    assert {name.removeprefix("base_model.model.") for name in trained} == vectors


def test_fields_are_checked_without_peft():
    lines = [
        "import sys",
        "from utils.adapters.peft_tuners import load_plugin",
        "Config = load_plugin('vera').Config",
        "assert Config().r == 256 and Config(target_modules='a,b').target_modules == ['a', 'b']",
        "assert 'peft' not in sys.modules and 'torch' not in sys.modules",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def _mistakes(make_config, **peft):
    with pytest.raises(ConfigError) as caught:
        make_config("bert", peft=peft)
    return str(caught.value)


def test_mistakes_are_named(make_config):
    assert "did you mean vera_dropout?" in _mistakes(make_config, method="vera", vera_droput=0.1)
    assert "use a whole number" in _mistakes(make_config, method="vera", r="many")
    assert "did you mean road_4?" in _mistakes(make_config, method="road", variant="road_8")
    assert "set model.name_or_path" in _mistakes(make_config, method="oft", base_model_name_or_path="x")
    assert "read from the base model" in _mistakes(make_config, method="prefix-tuning", num_layers=3)
    assert "is empty" in _mistakes(make_config, method="hra", target_modules=[])


@pytest.mark.parametrize(
    ("method", "key"),
    [("vera", "r"), ("loha", "r"), ("lokr", "r"), ("hra", "r"), ("miss", "mini_r"), ("randlora", "r"), ("delora", "r"),
     ("fourierft", "n_frequency"), ("waveft", "n_frequency"), ("c3a", "block_size"), ("road", "group_size")],
)  # fmt: skip
def test_sizes_start_at_one(make_config, method, key):
    assert f"peft.{key}: 0 is not allowed; use a whole number from 1" in _mistakes(
        make_config, method=method, **{key: 0}
    )


def test_oft_takes_one_of_its_two_sizes(make_config):
    assert make_config("bert", peft={"method": "oft", "r": 8, "oft_block_size": 0}).peft.r == 8
    assert make_config("bert", peft={"method": "oft", "oft_block_size": 8}).peft.r == 0
    assert "peft.r: not beside oft_block_size (32)" in _mistakes(make_config, method="oft", r=8)
    assert "set peft.oft_block_size: 0" in _mistakes(make_config, method="oft", r=8)
    assert "both 0; set one of them" in _mistakes(make_config, method="oft", oft_block_size=0)
    assert "use a whole number from 0" in _mistakes(make_config, method="oft", r=-1)


def test_names_of_other_libraries_are_accepted(make_config):
    assert "did you mean init_r (at the start) and target_r" in _mistakes(make_config, method="adalora", lora_r=8)
    assert "did you mean lora with use_dora: true?" in _mistakes(make_config, method="dora")
    assert "did you mean loraplus_lr_ratio?" in _mistakes(make_config, method="lora", lora_plus=16)


def test_a_tuner_missing_from_peft_is_refused():
    from pydantic import ValidationError

    from utils.adapters.peft_tuners import Tuner, build_config

    for method in ("nowhere", "vera"):
        with pytest.raises(ValidationError, match=r"the installed peft \(.+\) has no NowhereConfig; update it, or use"):
            build_config(method, Tuner("NowhereConfig", "Nothing.", "nobody"))()


def test_incompatible_sizes_are_refused(attach):
    with pytest.raises(ModelError, match="peft refuses c3a on this model: The block size should be a factor"):
        attach("bert", "c3a")


def test_a_resolved_file_means_the_same_run(make_config, tmp_path):
    from utils.run_config import load_run_config

    config = make_config("bert", peft={"method": "loha", "r": 4})
    file = tmp_path / "resolved.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert load_run_config(file).to_dict() == config.to_dict()


def test_requirements_and_limits_of_each_tuner(make_config, make_sft):
    assert "peft.use_asa: not here: its importances are not in checkpoints" in _mistakes(
        make_config, method="adamss", use_asa=True
    )
    assert "trainable_tokens not with task_type: SEQ_CLS; peft saves no new head" in _mistakes(
        make_config, method="trainable_tokens", token_indices=[1]
    )
    with pytest.raises(ConfigError, match=r"peft\.adapter_len: missing; adaption_prompt needs it"):
        make_sft(peft={"method": "adaption_prompt"})
    with pytest.raises(ConfigError, match=r"adaption_prompt is for attention modules, and all-linear names none"):
        make_sft(
            peft={"method": "adaption_prompt", "adapter_len": 4, "adapter_layers": 1, "target_modules": "all-linear"}
        )


def test_layers_without_trainable_modules_are_refused(attach):
    with pytest.raises(ModelError, match="osf trains nothing in this model"):
        attach("gpt2", "osf")
    attached = attach("llama", "beft")
    with pytest.raises(ModelError, match="the adapter trains biases of layers that have none in the base"):
        attached.plugin.merge(attached.model)


def test_single_tokens_are_trained_in_inputs_and_outputs(attach, read_logits, tmp_path):
    base = {"name_or_path": str(BASE)}
    with pytest.raises(ConfigError, match=r"peft\.token_indices: is empty; name ids of tokens to train"):
        attach("llama", "trainable_tokens", base, num_labels=None)
    with pytest.raises(ConfigError, match=r"peft\.token_indices: no token 100000: the model has"):
        attach("llama", "trainable_tokens", base, num_labels=None, token_indices=[100000])
    new = {**base, "extra_special_tokens": ["<note>"]}
    attached = attach("llama", "trainable_tokens", new, num_labels=None, token_indices=[5])
    chosen = attached.model.peft_config["default"].token_indices
    assert list(chosen) == [5, attached.tokenizer.convert_tokens_to_ids("<note>")]
    attached.plugin.save(attached.model, tmp_path)
    loaded = attached.plugin.load(tmp_path, attached.load_base)
    expected = read_logits(attached.model, attached.tokenizer)
    assert (read_logits(loaded, attached.tokenizer) - expected).abs().max() < 1e-6
