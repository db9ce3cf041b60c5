"""To peft a side network is an adapter like any other: saved, loaded, one of several, unloaded."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit.adapters.qst.conftest import compute_logits

ROOT = Path(__file__).parents[4]
FAMILIES = [
    *((family, "CAUSAL_LM") for family in ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3", "gpt2", "opt")),
    *((family, "SEQ_CLS") for family in ("llama", "bert", "roberta", "distilbert", "deberta_v2", "modernbert")),
]
_RELOAD = """
import json, sys
from pathlib import Path
import torch, transformers
from peft import PeftModel
from utils.adapters import qst
qst.QSTConfig
for folder in sorted(Path(sys.argv[1]).iterdir()):
    kind = getattr(transformers, (folder / "class.txt").read_text())
    base = kind.from_pretrained(folder / "base").eval()
    model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    saved = torch.load(folder / "saved.pt")
    with torch.no_grad():
        found = model(**saved["batch"]).logits
    assert torch.equal(found, saved["logits"]), (folder.name, (found - saved["logits"]).abs().max())
    assert not any(p.requires_grad for p in model.parameters()), folder.name
    print(folder.name)
"""


def test_a_saved_adapter_gives_the_same_logits_in_a_new_process(build_base, attach_side_network, draw_batch, tmp_path):
    batch = draw_batch()
    for family, task_type in FAMILIES:
        folder = tmp_path / "models" / f"{family}-{task_type}"
        model = build_base(family, task_type)
        model.save_pretrained(folder / "base")
        (folder / "class.txt").write_text(type(model).__name__)
        adapted = attach_side_network(model, side_layers="every_2", gate="vector")
        adapted.save_pretrained(folder / "adapter")
        torch.save({"batch": batch, "logits": compute_logits(adapted, batch)}, folder / "saved.pt")
    command = [sys.executable, "-c", _RELOAD, str(tmp_path / "models")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.split()) == len(FAMILIES)


def test_only_trained_parameters_are_saved(build_base, attach_side_network, tmp_path):
    from safetensors.torch import load_file

    adapted = attach_side_network(build_base("bert", "SEQ_CLS", num_labels=3))
    adapted.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    weights = load_file(tmp_path / "adapter_model.safetensors")
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert sum(value.numel() for value in weights.values()) == sum(p.numel() for p in trained.values())
    assert all("qst_side" in name or "classifier" in name for name in weights)
    assert not [name for name in weights if "default" in name or "base_layer" in name]
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["modules_to_save"]) == ("QST", ["classifier", "score"])


def test_a_loaded_adapter_can_be_trained_further(build_base, attach_side_network, draw_batch, tmp_path):
    from peft import PeftModel

    attach_side_network(build_base("llama")).save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(build_base("llama"), tmp_path, is_trainable=True)
    batch = draw_batch()
    again(**batch, labels=batch["input_ids"]).loss.backward()
    named = [n for n, p in again.named_parameters() if p.requires_grad]
    assert named
    assert all("qst_side" in name for name in named)
    assert all(p.grad is not None for p in again.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sparing", [False, True])
def test_the_side_network_stays_float32_on_a_half_precision_backbone(
    build_base, attach_side_network, draw_batch, tmp_path, dtype, sparing
):
    """Also when first loaded onto the meta device, after which peft casts to the base's dtype."""
    from peft import PeftModel

    adapted, batch = attach_side_network(build_base("llama").to(dtype)), draw_batch()
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(build_base("llama").to(dtype), tmp_path, low_cpu_mem_usage=sparing).eval()
    assert {p.dtype for n, p in again.named_parameters() if "qst_" in n} == {torch.float32}
    assert torch.equal(compute_logits(again, batch), compute_logits(adapted, batch))


@pytest.mark.parametrize(("family", "task_type"), [("llama", "CAUSAL_LM"), ("bert", "SEQ_CLS")])
def test_several_side_networks_on_one_base(
    build_base, attach_side_network, scatter, draw_batch, tmp_path, family, task_type
):
    """With different layers and widths, switched, saved separately, deleted."""
    from peft import PeftModel

    from utils.adapters.qst import QSTConfig

    batch = draw_batch()
    base = compute_logits(build_base(family, task_type), batch)
    adapted = attach_side_network(build_base(family, task_type), side_layers=[1])
    first = compute_logits(adapted, batch)
    other = QSTConfig(task_type=task_type, reduction_factor=4, downsample="linear", mix="paper")
    adapted.add_adapter("other", other)
    assert torch.equal(compute_logits(adapted, batch), first)
    adapted.set_adapter("other")
    scatter(adapted)
    second = compute_logits(adapted, batch)
    assert {n.split(".default")[0] == n for n, p in adapted.named_parameters() if p.requires_grad} == {True}
    adapted.train()
    labels = torch.tensor([0, 1, 0, 1]) if task_type == "SEQ_CLS" else batch["input_ids"]
    adapted(**batch, labels=labels).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in adapted.parameters())
    adapted.eval()
    adapted.set_adapter("default")
    assert torch.equal(compute_logits(adapted, batch), first)
    with adapted.disable_adapter():
        assert torch.equal(compute_logits(adapted, batch), base)
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build_base(family, task_type), tmp_path / "other").eval()
    assert torch.equal(compute_logits(loaded, batch), second)
    loaded.load_adapter(tmp_path, "first")
    loaded.set_adapter("first")
    assert torch.equal(compute_logits(loaded.eval(), batch), first)
    adapted.delete_adapter("other")
    assert torch.equal(compute_logits(adapted, batch), first)
    assert not [n for n, _ in adapted.named_parameters() if "other" in n]


@pytest.mark.parametrize(("family", "task_type"), [("llama", "CAUSAL_LM"), ("bert", "SEQ_CLS"), ("gpt2", "SEQ_CLS")])
def test_unloading_leaves_the_base(build_base, attach_side_network, draw_batch, family, task_type):
    batch = draw_batch()
    base = build_base(family, task_type)
    before, modules = compute_logits(base, batch), [type(part) for part in base.modules()]
    adapted = attach_side_network(base)
    adapted.base_model.start_replay(lambda *shape: pytest.fail("nothing is run"))
    plain = adapted.unload()
    assert plain is base
    assert [type(part) for part in plain.modules() if "ModulesToSave" not in type(part).__name__] == modules
    assert not [part for part in plain.modules() if part._forward_pre_hooks or part._forward_hooks]
    if task_type == "CAUSAL_LM":
        assert torch.equal(compute_logits(plain, batch), before)
    again = attach_side_network(plain, scattered=False)
    assert torch.equal(compute_logits(again, batch), compute_logits(plain, batch))


@pytest.mark.parametrize("how", ["merge_and_unload", "merge_adapter", "room"])
def test_merging_is_refused(build_base, attach_side_network, how):
    from utils.adapters import qst

    if how == "room":
        assert "cannot be merged" in qst.Config.LIMITS.merge
        assert not hasattr(qst, "merge")
        return
    adapted = attach_side_network(build_base("llama"))
    with pytest.raises(ValueError, match=r"a side network cannot be merged: .* use the adapter on its base"):
        getattr(adapted, how)()


def test_two_active_side_networks_are_refused(build_base, attach_side_network, draw_batch):
    from utils.adapters.qst import QSTConfig

    adapted = attach_side_network(build_base("llama"))
    adapted.add_adapter("other", QSTConfig(task_type="CAUSAL_LM", reduction_factor=4))
    adapted.base_model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match="one side network can be active at a time"):
        compute_logits(adapted, draw_batch())


def test_mixing_with_another_adapter_type_is_refused(build_base, attach_side_network):
    from peft import LoraConfig, get_peft_model

    from utils.adapters.qst import QSTConfig

    adapted = attach_side_network(build_base("llama"))
    with pytest.raises(ValueError, match=r"QST.*LORA|LORA.*QST"):
        adapted.add_adapter("lora", LoraConfig(target_modules=["q_proj"]))
    mixed = get_peft_model(build_base("llama"), LoraConfig(target_modules=["q_proj"]), mixed=True)
    with pytest.raises(ValueError, match="'QST' is not compatible"):
        mixed.add_adapter("side", QSTConfig())


def test_on_a_merged_lora_it_reads_the_merged_base(build_base, attach_side_network, scatter, draw_batch):
    from peft import LoraConfig, get_peft_model

    batch, model = draw_batch(), get_peft_model(build_base("llama"), LoraConfig(target_modules=["q_proj"]))
    scatter(model)
    merged = model.eval().merge_and_unload()
    expected = compute_logits(merged, batch)
    assert torch.equal(compute_logits(attach_side_network(merged, scattered=False), batch), expected)


@pytest.mark.parametrize(("family", "task_type"), [("llama", "CAUSAL_LM"), ("bert", "SEQ_CLS")])
def test_a_deep_copy_is_independent(build_base, attach_side_network, scatter, draw_batch, family, task_type):
    adapted, batch = attach_side_network(build_base(family, task_type)), draw_batch()
    before = compute_logits(adapted, batch)
    copied = copy.deepcopy(adapted)
    assert torch.equal(compute_logits(copied, batch), before)
    scatter(adapted)
    assert torch.equal(compute_logits(copied, batch), before)
    assert not torch.equal(compute_logits(adapted, batch), before)


def test_gates_are_float32_without_pefts_casting(build_base, draw_batch):
    from peft import get_peft_model

    from utils.adapters.qst import QSTConfig

    config = QSTConfig(task_type="CAUSAL_LM", reduction_factor=2)
    adapted = get_peft_model(build_base("llama").to(torch.bfloat16), config, autocast_adapter_dtype=False)
    assert {p.dtype for n, p in adapted.named_parameters() if n.endswith("gates")} == {torch.float32}
    assert compute_logits(adapted, draw_batch()).isfinite().all()


def test_the_side_network_follows_an_encoder_whose_last_layer_has_no_weights(build_base, attach_side_network):
    adapted = attach_side_network(build_base("bert", "SEQ_CLS"), scattered=False)
    moved = copy.deepcopy(adapted).to("meta")
    assert {p.device.type for p in moved.parameters()} == {"meta"}
    from peft import get_peft_model

    from utils.adapters.qst import QSTConfig

    on_meta = build_base("bert", "SEQ_CLS").to("meta")
    late = get_peft_model(on_meta, QSTConfig(task_type="SEQ_CLS", reduction_factor=2))
    assert {p.device.type for n, p in late.named_parameters() if "qst_" in n} == {"meta"}
