"""Adapters made elsewhere: loaded onto their base and merged, or refused with the mismatch."""

from __future__ import annotations

import json

import pytest

from utils.core.errors import ModelError, UserError
from utils.merging.merging import MergeOptions, merge_adapter
from utils.merging.source import open_adapter_folder, open_adapter_run


@pytest.fixture
def foreign(make_sft, tmp_path):
    """Make an adapter with peft alone on the embedded base; return its folder and the configuration's file."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = make_sft()
    model = AutoModelForCausalLM.from_pretrained(config.model.name_or_path)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "foreign")
    return tmp_path / "foreign", config.source, adapted


def test_an_adapter_made_elsewhere_is_merged(foreign, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, config, adapted = foreign
    report = merge_adapter(open_adapter_folder(config, str(folder)), str(tmp_path / "merged"), MergeOptions())
    assert report["source"]["run"] is None
    assert report["probe"]["source"] == "built-in texts"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = tokenizer("Tom has 5 pens.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        difference = adapted.eval()(ids).logits - merged(ids).logits
    assert difference.abs().max() < 1e-3
    assert report["probe"]["update_effect"] > 1


def test_a_missing_or_unused_tensor_is_named(foreign, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, config, _ = foreign
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    first = min(tensors)
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, file)
    with pytest.raises(ModelError, match=f"it lacks 1 tensors such as {first}"):
        merge_adapter(open_adapter_folder(config, str(folder)), str(tmp_path / "merged"), MergeOptions())
    other = first.replace("layers.0", "layers.9")
    save_file({**tensors, other: tensors[first].clone()}, file)
    with pytest.raises(ModelError, match=r"holds, without a place in the model, 1 tensors such as .*layers\.9"):
        merge_adapter(open_adapter_folder(config, str(folder)), str(tmp_path / "merged"), MergeOptions())
    assert not list(tmp_path.glob("merged*"))


def test_an_adapter_of_another_base(foreign, make_sft, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder, config, adapted = foreign
    base = adapted.base_model.config.name_or_path
    smaller = AutoConfig.from_pretrained(base, hidden_size=64, intermediate_size=96)
    AutoModelForCausalLM.from_config(smaller).save_pretrained(tmp_path / "smaller")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "smaller")
    config = make_sft(model__name_or_path=str(tmp_path / "smaller")).source
    with pytest.raises(UserError, match=rf"adapter_config\.json names the base {base}, and .*yaml names .*smaller: "):
        open_adapter_folder(config, str(folder))
    made = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**made, "base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(ModelError, match=r"the weights do not fit .*smaller: size mismatch for base_model"):
        merge_adapter(open_adapter_folder(config, str(folder)), str(tmp_path / "merged"), MergeOptions())


def test_a_classifier_made_elsewhere_takes_labels_from_its_folder(make_config, train_run, tmp_path):
    run = train_run(make_config("bert"))
    source = open_adapter_folder(run.config.source, str(run.folder))
    assert source.label_names == ("0", "1")
    assert source.weights == run.folder / "final_model"
    assert source.run == run.folder
    bare = (run.folder / "final_model").rename(tmp_path / "bare")
    (bare / "run.yaml").unlink()
    assert open_adapter_folder(run.config.source, str(bare)).run is None
    (bare / "labels.json").unlink()
    with pytest.raises(UserError, match=r"set dataset\.label_names or dataset\.num_labels"):
        open_adapter_folder(run.config.source, str(bare))


def test_unusable_sources_are_refused(make_config, tmp_path):
    config = make_config("bert").source
    with pytest.raises(UserError, match=r"has neither adapter_config\.json nor config\.json, so it is not a model"):
        open_adapter_folder(config, str(tmp_path))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(UserError, match=r"is of the method ia3, but .* says peft\.method: lora"):
        open_adapter_folder(config, str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json: not JSON"):
        open_adapter_folder(config, str(tmp_path))


@pytest.mark.parametrize("method", ["none", "head-only"])
def test_a_method_without_adapter_is_refused(method, make_config, train_run):
    run = train_run(make_config("bert", peft={"method": method}))
    with pytest.raises(UserError, match="there is no adapter to merge: final_model/ is the whole model already"):
        open_adapter_run(str(run.folder))


def test_an_adapter_for_another_task_is_refused(foreign, make_config, tmp_path):
    folder, _, _ = foreign
    config = make_config("llama").source
    with pytest.raises(UserError, match=r"is for SEQ_CLS, and the adapter in .*foreign for CAUSAL_LM"):
        open_adapter_folder(config, str(folder))


def test_a_merged_model_is_refused(make_sft, train_run, tmp_path):
    import shutil

    run = train_run(make_sft())
    inside = run.folder / "merged"
    merge_adapter(open_adapter_run(str(run.folder)), str(inside), MergeOptions(num_eval=0))
    shutil.copytree(inside, tmp_path / "elsewhere")
    for folder in (inside, tmp_path / "elsewhere"):
        with pytest.raises(UserError, match=r"is a merged model already \(merge_report\.json\)"):
            open_adapter_run(str(folder))
    (inside / "merge_report.json").unlink()
    with pytest.raises(UserError, match=r"holds no adapter_config\.json, so there is no adapter to merge"):
        open_adapter_run(str(inside))
    again = merge_adapter(open_adapter_run(str(run.folder)), str(tmp_path / "again"), MergeOptions(num_eval=0))
    assert again["probe"]["top1_agreement"] == 1, "merging does not change the run"


def test_damaged_weights(foreign, tmp_path):
    folder, config, _ = foreign
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"its weights cannot be read .*cut off or edited; copy the folder again"):
        merge_adapter(open_adapter_folder(config, str(folder)), str(tmp_path / "merged"), MergeOptions())
    file.unlink()
    with pytest.raises(ModelError, match=r"holds adapter_config\.json and no adapter_model\.safetensors"):
        merge_adapter(open_adapter_folder(config, str(folder)), str(tmp_path / "merged"), MergeOptions())
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json: not JSON"):
        open_adapter_folder(config, str(folder))
    assert not list(tmp_path.glob("merged*"))


def test_a_too_long_name_is_reported():
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        open_adapter_run("n" * 300)
