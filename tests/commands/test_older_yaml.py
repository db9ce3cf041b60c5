"""Run files of similar frameworks: each is read as its first comment states."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from utils.config.run_config import RunConfig
from utils.core.errors import ConfigError
from utils.run_config import load_run_config
from utils.run_config.load import inspect_run_config

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("LORA_NS_REAL_DATA", ROOT.parent / "shared" / "data")) / "older_yaml"
FILES = sorted(FOLDER.glob("*.yaml"))
BASE = """model: {name_or_path: a/b}
peft: {method: lora, task_type: %s%s}
dataset: {name: %s}
"""


@pytest.mark.skipif(not FILES, reason=f"needs other projects' run files in {FOLDER}")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_is_read_as_its_first_line_states(file: Path) -> None:
    expected = re.match(r"# expect: (accepted|refused: (.*))", file.read_text("utf-8"))
    assert expected, "the first line states nothing"
    inspection = inspect_run_config(file)
    refused = {problem.path for problem in inspection.problems}
    assert refused == (set(expected[2].split(", ")) if expected[2] else set())
    assert (inspection.config is None) == bool(refused)
    assert all(problem.place.startswith(f"{file}:") for problem in inspection.problems)


def _read(tmp_path: Path, text: str) -> RunConfig:
    file = tmp_path / "run.yaml"
    file.write_text(text, "utf-8")
    return load_run_config(file)


@pytest.mark.parametrize(
    ("variant", "switches"),
    [("lora", (False, False)), ("dora", (True, False)), ("rslora", (False, True)), ("DoRA", (True, False))],
)
def test_variants_of_lora(variant: str, switches: tuple[bool, bool], tmp_path: Path) -> None:
    config = _read(tmp_path, BASE % ("SEQ_CLS", f", variant: {variant}", "glue, subset: rte"))
    peft = config.peft.model_dump()
    assert (peft["use_dora"], peft["use_rslora"]) == switches
    assert any("peft.variant" in notice for notice in config.notices)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("variant: xlora", "peft.variant: 'xlora'"),
        ("variant: dora, use_dora: false", "peft.variant: dora contradicts"),
    ],
)
def test_invalid_variants_are_refused(keys: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        _read(tmp_path, BASE % ("SEQ_CLS", f", {keys}", "glue, subset: rte"))


def test_other_methods_keep_their_own_variant_key(tmp_path: Path) -> None:
    text = (BASE % ("SEQ_CLS", "", "glue, subset: rte")).replace("method: lora", "method: road, variant: road_2")
    assert _read(tmp_path, text).peft.model_dump()["variant"] == "road_2"


@pytest.mark.parametrize(
    ("name", "template", "prompt"),
    [
        ("gsm8k", "Q: {question}\nA: {answer}", "Q: {question}\nA:"),
        ("gsm8k", "Q: {question}\nA:", "Q: {question}\nA:"),
        ("meta-math/MetaMathQA", "{query}\n\n### Response:\n{response}\n", "{query}\n\n### Response:\n"),
        ("rows.jsonl", "{title} means {output}", "{title} means"),
    ],
)
def test_a_template_that_holds_the_answer(name: str, template: str, prompt: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"title": "a", "output": "b"}\n')
    named = str(tmp_path / name) if name.endswith("jsonl") else name
    text = BASE % ("CAUSAL_LM", "", f"{named}, prompt_template: {template!r}".replace("'", '"'))
    config = _read(tmp_path, text)
    assert config.dataset.model_dump()["prompt_template"] == prompt


def test_an_answer_inside_the_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the prompt can be made of one column"):
        _read(tmp_path, BASE % ("CAUSAL_LM", "", 'gsm8k, prompt_template: "{answer} to {question}"'))


def test_the_length_of_rows_of_either_task(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    rows = f"{tmp_path / 'rows.jsonl'}"
    config = _read(tmp_path, BASE % ("CAUSAL_LM", "", f"{rows}, max_length: 77"))
    assert config.max_length == 77
    again = _read(tmp_path, config.to_yaml())  # the resolved file has both keys
    assert again.max_length == 77
    assert again.to_dict() == config.to_dict()


def test_two_different_lengths_are_refused(tmp_path: Path) -> None:
    text = BASE % ("CAUSAL_LM", "", "gsm8k, max_length: 77") + "sft: {max_seq_length: 78}\n"
    with pytest.raises(ConfigError, match=r"dataset\.max_length: two names for one setting"):
        _read(tmp_path, text)


def test_the_command_line_overrides_older_keys_too(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(BASE % ("SEQ_CLS", "", "glue, subset: rte") + "training: {seed: 1}\n", "utf-8")
    assert load_run_config(file).seed == 1
    assert load_run_config(file, ["seed=2"]).seed == 2
    assert load_run_config(file, ["training.seed=3"]).seed == 3


def test_wandb_environment_variables_take_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os as environment

    from utils.trainer.building import build_arguments

    text = BASE % ("SEQ_CLS", "", "glue, subset: rte")
    text += "wandb: {project: p, name: n, tags: [a, b], mode: offline, entity: e}\ntraining: {use_cpu: true}\n"
    config = _read(tmp_path, text)
    for name in ("WANDB_TAGS", "WANDB_MODE", "WANDB_ENTITY"):  # set by an earlier training of this process
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    arguments = build_arguments(config)
    assert arguments.run_name == "n"
    found = {name: environment.environ.get(f"WANDB_{name}") for name in ("PROJECT", "TAGS", "MODE", "ENTITY")}
    assert found == {"PROJECT": "mine", "TAGS": "a,b", "MODE": "offline", "ENTITY": "e"}
    other = _read(tmp_path, text.replace("project: p", "project: q"))
    assert other.fingerprint() == config.fingerprint()
    with pytest.raises(ConfigError, match=r"training\.wandb\.colour: unknown key"):
        _read(tmp_path, text.replace("project: p", "colour: blue"))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("full", "none"), ("prefix", "prefix-tuning"), ("prompt", "prompt-tuning"), ("ptuning", "p-tuning"),
        ("linear_probe", "head-only"), ("qlora", "lora with model.quantization: nf4"), ("dora", "lora with use_dora"),
    ],
)  # fmt: skip
def test_alternative_method_names(written: str, meant: str, tmp_path: Path) -> None:
    text = (BASE % ("SEQ_CLS", "", "glue, subset: rte")).replace("method: lora", f"method: {written}")
    with pytest.raises(ConfigError, match=rf"no method called {written}; did you mean {meant}"):
        _read(tmp_path, text)


def test_kaiming_init_suggests_true(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no initialisation called kaiming; did you mean true, by which A"):
        _read(tmp_path, BASE % ("SEQ_CLS", ", init_lora_weights: kaiming", "glue, subset: rte"))


@pytest.mark.parametrize("key", ["use_qelbra", "total_evals", "lora_init", "evl_times"])
def test_an_unrelated_key_gives_no_hint(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, BASE % ("SEQ_CLS", f", {key}: 1", "glue, subset: rte"))
    assert "did you mean" not in str(caught.value)
