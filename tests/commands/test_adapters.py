"""Adapters made by peft alone are scored and used on their base, one or many at once."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.in_process import command
from tests.model_server import BASE
from utils.core.errors import UserError
from utils.evaluate_model.adapters import find_adapters

SET = "{name: gsm8k, path: examples/quickstart/arithmetic, label: sums}"
FEW = ["evaluation.max_samples=4", "generation.max_new_tokens=6"]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of adapters saved by peft: lora and ia3, of one base, without tokenizers."""
    import torch
    from peft import IA3Config, LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    kinds = {"one": LoraConfig(task_type="CAUSAL_LM", r=2), "two": IA3Config(task_type="CAUSAL_LM"),
             "three": LoraConfig(task_type="CAUSAL_LM", r=2)}  # fmt: skip
    for name, config in kinds.items():
        torch.manual_seed(len(name))
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), config)
        for key, parameter in model.named_parameters():
            if "lora_B" in key or "ia3_l" in key:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder / name)
    return folder


def _answer(folder: Path, prompt: str) -> str:
    """Generate six tokens with peft and transformers alone."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    model, tokenizer = AutoPeftModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(BASE)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=not prompt.startswith("<bos>")).input_ids
    return str(
        tokenizer.decode(
            model.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[0][ids.shape[1] :],
            skip_special_tokens=True,
        )
    )


def test_many_adapters_are_scored_one_row_each(adapters: Path, tmp_path: Path) -> None:
    shutil.copytree(adapters, tmp_path / "all")
    (tmp_path / "all/two/adapter_model.safetensors").unlink()
    answer = command("evaluate_model", "--adapter", f"{tmp_path}/all/*", "--set", SET, "--output_dir", tmp_path / "out",
                     *FEW)  # fmt: skip
    assert answer["exit_code"] == 1
    rows = list(csv.DictReader((tmp_path / "out/adapters.csv").open()))
    assert [Path(row["adapter"]).name for row in rows] == ["one", "three", "two"]
    assert "adapter_model" in rows[2]["error"]
    assert [row["sums_rows"] for row in rows] == ["4", "4", ""]
    for row in rows[:2]:
        found = answer["adapters"][row["adapter"]]
        assert float(row["sums_em_strict"]) == found["sets"]["sums"]["metrics"]["em_strict"]
        assert row["base"] == str(BASE)
        folder = Path(found["sets"]["sums"]["folder"])
        for line in (folder / "predictions.jsonl").read_text().splitlines()[:2]:
            written = json.loads(line)
            assert written["prediction"] == _answer(Path(row["adapter"]), written["prompt"]), row


def test_edited_adapters_are_scored_again(adapters: Path, tmp_path: Path) -> None:
    """The scaling is only in adapter_config.json: answers under another scaling must not be reused."""
    words = ["--set", SET, "--output_dir", tmp_path / "out", *FEW]
    folder = tmp_path / "mine"
    shutil.copytree(adapters / "one", folder)
    made = json.loads((folder / "adapter_config.json").read_text())
    written = []
    for alpha in (made["lora_alpha"], made["lora_alpha"] * 9):
        (folder / "adapter_config.json").write_text(json.dumps(made | {"lora_alpha": alpha}))
        result = command("evaluate_model", "--adapter", folder, *words)["sets"]["sums"]
        assert not result["reused"]
        first = json.loads((Path(result["folder"]) / "predictions.jsonl").read_text().splitlines()[0])
        written.append(first["prediction"])
        assert first["prediction"] == _answer(folder, first["prompt"])
    assert written[0] != written[1]


def test_an_adapter_generates_on_its_own_or_a_named_base(adapters: Path, tmp_path: Path) -> None:
    text = "Tom has 3 apples and"
    for words in ([], ["--model", BASE]):
        answer = command("inference", "--adapter", adapters / "two", *words, "--input_text", text, "--json",
                         "--max_new_tokens", "6")  # fmt: skip
        assert answer["answers"][0]["answer"] == _answer(adapters / "two", text)


def test_folders_without_adapter_or_with_another_base_are_refused(
    adapters: Path, tmp_path: Path, tiny_base: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = json.loads((adapters / "one/adapter_config.json").read_text())
    odd = tmp_path / "odd"
    for changes, words, said in (
        ({}, ["--model", tiny_base("llama")], "names the base"),
        ({"peft_type": "POLY"}, [], "peft's type POLY"),
        ({"base_model_name_or_path": None}, [], "names no base; give it by --model"),
        (None, [], r"no adapter_config\.json here"),
    ):
        shutil.rmtree(odd, ignore_errors=True)
        shutil.copytree(adapters / "one", odd)
        (odd / "adapter_config.json").write_text(json.dumps(made | changes) if changes is not None else "{}")
        with pytest.raises(UserError, match=said):
            command("evaluate_model", "--adapter", odd, *words, "--set", SET)
    with pytest.raises(UserError, match="no such folder"):
        command("evaluate_model", "--adapter", tmp_path / "none*", "--set", SET)
    shutil.copytree(adapters / "one", tmp_path / "run[1]")
    (tmp_path / "notes.txt").write_text("")
    assert find_adapters([f"{tmp_path}/run[1]", f"{tmp_path}/*"])[0] == f"{tmp_path}/run[1]"
    with pytest.raises(UserError, match=r"notes\.txt: no such folder"):
        find_adapters([f"{tmp_path}/run[1]", f"{tmp_path}/notes.txt"])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "empty").mkdir()
    command("evaluate_model", "--adapter", odd, tmp_path / "empty", "--set", SET, "--output_dir", "~/scores")
    assert (tmp_path / "home/scores/adapters.csv").is_file()
    with pytest.raises(UserError, match="needs a --set"):
        command("evaluate_model", "--adapter", adapters / "one")


def test_with_a_server_the_server_must_load_the_adapter(adapters: Path) -> None:
    from tests.model_server import serve

    words = ["inference", "--input_text", "Tom", "--json", "--adapter"]
    with serve() as server:
        with pytest.raises(UserError, match="alone, without the adapter"):
            command(*words, adapters / "one", "--server", server.url)
        server.models.append({"id": "two", "root": str(adapters / "two"), "parent": "base"})
        with pytest.raises(UserError, match="cannot load what ia3 saves"):
            command(*words, adapters / "two", "--server", server.url, "--served_model", "two")
