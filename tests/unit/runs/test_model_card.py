"""The model card: true, without local paths, and readable by the hub's own client."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from utils.results.record import RunRecord
from utils.run_config import load_run_config
from utils.runs.model_card import build_card
from utils.runs.push import plan_push

SET = {"em_strict": 0.5, "interval": {"em_strict": [0.4, 0.6]}, "num_scored": {"em_strict": 100}, "partial": True,
       "protocol": "gsm8k zero-shot | lm-eval"}  # fmt: skip


def read(tmp_path: Path, base: str, path: str | None, **peft: object) -> object:
    file = tmp_path / "run.yaml"
    dataset = {"name": "gsm8k", **({"path": path} if path else {})}
    model = {"name_or_path": base}
    file.write_text(yaml.safe_dump({"task_type": "CAUSAL_LM", "task_name": "sums", "model": model, "dataset": dataset,
                                    "peft": peft, "training": {"output_dir": str(tmp_path / "run")}}))  # fmt: skip
    return load_run_config(file, files=False)


def test_scores_are_in_the_hubs_metadata_with_their_protocol(tmp_path):
    config = read(tmp_path, "Qwen/Qwen2.5-1.5B", None, method="lora", lora_r=16)
    sets = {"gsm8k": SET, "combined": {"combined_score": 1.5, "kept_step": 30}}  # the last one is not a dataset
    card = ModelCard(build_card(config, RunRecord("success", "sums", "CAUSAL_LM", "lora", evaluation=sets), False))
    assert (card.data.base_model, card.data.library_name) == ("Qwen/Qwen2.5-1.5B", "peft")
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("gsm8k", "em_strict", 0.5)
    assert result.metric_args == {"protocol": SET["protocol"], "num_rows": 100, "interval_95": [0.4, 0.6]}
    row = "| gsm8k em_strict x100 | 50.00 | 40.00 .. 60.00 | gsm8k zero-shot \\| lm-eval (a part of the rows) |"
    assert row in card.text
    assert "combined" not in card.text
    assert 'AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-1.5B")' in card.text
    assert "vllm serve Qwen/Qwen2.5-1.5B --enable-lora" in card.text


def test_names_are_escaped(tmp_path):
    config = read(tmp_path, "Qwen/Qwen2.5-1.5B", None, method="lora")
    tag = "<img src=x onerror=alert(1)>"
    hostile = dataclasses.replace(config, task_name=f"{tag}\n# a second title")
    record = RunRecord("success", "sums", "CAUSAL_LM", "lora", evaluation={f"{tag}\n": SET})
    text = ModelCard(build_card(hostile, record, False)).text
    assert tag not in text
    assert "# &lt;img src=x onerror=alert(1)> # a second title\n" in text
    assert "| &lt;img src=x onerror=alert(1)> em_strict x100 | 50.00 |" in text


@pytest.mark.parametrize("method", ["lora", "none", "qst", "prefix-tuning"])
def test_local_paths_are_not_disclosed(method, tmp_path):
    config = read(tmp_path, str(tmp_path / "secret" / "base"), str(tmp_path / "secret" / "rows"), method=method)
    record = RunRecord("success", "sums", "CAUSAL_LM", method, metrics={"loss": 1.0, "em_strict": 0.25})
    card = build_card(config, record, method == "none")
    assert str(tmp_path) not in card
    assert "rows that are not public" in card
    assert [each.metric_type for each in ModelCard(card).data.eval_results] == ["em_strict"]
    assert ("PeftModel" in card) == (method in ("lora", "prefix-tuning"))
    assert ("vllm" in card) == (method in ("lora", "none"))


def test_the_pushed_configuration_names_no_local_folders(tmp_path):
    config = read(tmp_path, str(tmp_path / "secret" / "base"), str(tmp_path / "secret" / "rows"), method="lora")
    (tmp_path / "run" / "final_model").mkdir(parents=True)
    (tmp_path / "run" / "final_model" / "adapter_config.json").write_text("{}")
    (tmp_path / "run" / "final_model" / "run.yaml").write_text(config.to_yaml())
    pushed = plan_push(tmp_path / "run", "me/sums", True, None, []).files["run.yaml"]
    assert isinstance(pushed, bytes)
    assert str(tmp_path).encode() not in pushed
    (tmp_path / "pushed.yaml").write_bytes(pushed)
    again = load_run_config(tmp_path / "pushed.yaml", files=False)
    assert (again.model.name_or_path, again.dataset.path) == ("./base", "./rows")


def test_a_local_file_is_not_listed_as_a_hub_dataset(tmp_path):
    config = read(tmp_path, "Qwen/Qwen2.5-1.5B", "data/rows.json", method="lora", adapter_path="outputs/first")
    card = build_card(config, RunRecord("success", "sums", "CAUSAL_LM", "lora"), False)
    assert ModelCard(card).data.datasets is None
    assert "data/rows.json" not in card
    assert "outputs/first" not in card
