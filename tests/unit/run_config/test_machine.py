"""What a machine lacks for a run is derived from its settings; the table is checked against the libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.without_ml import run_without_ml
from utils.core.errors import ConfigError
from utils.run_config import load_run_config
from utils.run_config.devices import Machine, choose_bf16
from utils.run_config.load import check_machine
from utils.run_config.machine import find_unmet, require_machine, tracker_names

Write = Callable[..., Path]
ROOT = Path(__file__).parents[3]
NOTHING, EVERYTHING = Machine(gpu=False, bf16=False, tf32=False), Machine(gpu=True, bf16=True, tf32=True)


def _unmet(file: Path, machine: Machine = EVERYTHING) -> list[str]:
    return [f"{key}: {message}" for key, message in find_unmet(load_run_config(file), machine)]


def test_missing_optimizers_agree_with_transformers(write_run: Write) -> None:
    import torch
    from transformers import Trainer, TrainingArguments
    from transformers.training_args import OptimizerNames

    model = torch.nn.ModuleDict({"attn": torch.nn.Linear(2, 2)})
    found = {}
    for name in (each.value for each in OptimizerNames):
        file = write_run(training={"optim": name, "optim_target_modules": ["attn"]})
        found[name] = bool(_unmet(file))
        args = TrainingArguments(output_dir="x", optim=name, optim_target_modules=["attn"], use_cpu=True, report_to=[])
        try:
            Trainer.get_optimizer_cls_and_kwargs(args, model)
            is_missing = False
        except (ImportError, ValueError):
            is_missing = True
        assert found[name] == is_missing, name
    assert {True, False} == set(found.values())


def test_missing_trackers_agree_with_transformers(write_run: Write) -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert tracker_names() == tuple(INTEGRATION_TO_CALLBACK)
    for name, callback in INTEGRATION_TO_CALLBACK.items():
        try:
            callback()
            is_missing = False
        except (RuntimeError, ImportError, ValueError):
            is_missing = True
        said = _unmet(write_run(training={"report_to": ["tensorboard", name]}))
        assert bool(said) == (is_missing or name == "kubeflow"), name
        assert all(line.startswith(f"training.report_to: {name} needs ") for line in said)


def test_each_of_several_trackers_is_named(write_run: Write) -> None:
    said = _unmet(write_run(training={"report_to": ["mlflow", "wandb"]}))
    assert [line.split()[1] for line in said] == ["mlflow", "wandb"]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"training": {"bf16": True}}, "training.bf16: no GPU here computes in bfloat16"),
        ({"training": {"bf16_full_eval": True}}, "training.bf16_full_eval: no GPU here computes"),
        ({"training": {"tf32": True}}, "training.tf32: needs an NVIDIA GPU from Ampere"),
        ({"training": {"ddp_backend": "nccl"}}, "training.ddp_backend: nccl needs a GPU"),
        (
            {"model": {"attn_implementation": "flash_attention_2"}},
            "model.attn_implementation: flash_attention_2 works on a GPU only",
        ),
        (
            {
                "task_type": "CAUSAL_LM",
                "dataset": {"name": "gsm8k", "subset": None},
                "sft": {"activation_offloading": True},
            },
            "sft.activation_offloading: works on a GPU only",
        ),
    ],
)
def test_settings_that_need_a_device(sections: dict[str, Any], said: str, write_run: Write) -> None:
    file = write_run(**sections)
    assert any(line.startswith(said) for line in _unmet(file, NOTHING))
    assert not any(line.startswith(said) for line in _unmet(file, EVERYTHING))


def test_half_precision_on_the_cpu_must_be_explicit(write_run: Write) -> None:
    assert _unmet(write_run(training={"bf16": True, "use_cpu": True}), NOTHING) == []


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"training": {"use_liger_kernel": True}}, "training.use_liger_kernel"),
        ({"model": {"attn_implementation": "flash_attention_2"}}, "model.attn_implementation"),
        ({"model": {"attn_implementation": "flash_attention_3"}}, "model.attn_implementation"),
        ({"model": {"attn_implementation": "kernels-community/flash-attn2"}}, "model.attn_implementation"),
    ],
)
def test_missing_packages(sections: dict[str, Any], key: str, write_run: Write) -> None:
    (said,) = _unmet(write_run(**sections))
    assert said.startswith(f"{key}: ")
    assert "run pip install" in said


def test_a_quantized_checkpoint_needs_its_packages(write_run: Write, tmp_path: Path) -> None:
    stored = {"quantization_config": {"quant_method": "aqlm"}, "model_type": "llama"}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(stored))
    (said,) = _unmet(write_run(model={"name_or_path": str(tmp_path / "base")}))
    assert said.startswith("model.name_or_path: is stored in a format that needs more packages; run pip install 'aqlm")


def test_a_base_made_by_another_command_is_explained(
    write_run: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = write_run(model={"name_or_path": "outputs/start"})
    monkeypatch.chdir(tmp_path)
    (said,) = _unmet(file)
    assert said.startswith("model.name_or_path: there is no folder outputs/start yet; run the command that makes it")
    assert _unmet(write_run("hub", model={"name_or_path": "Qwen/Qwen2.5-0.5B"})) == []
    (tmp_path / "outputs" / "start").mkdir(parents=True)
    (tmp_path / "outputs" / "start" / "config.json").write_text('{"model_type": "bert"}')
    assert _unmet(file) == []


def test_pushing_needs_the_hub(write_run: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = write_run(training={"push_to_hub": True}, model={"token": True})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert all("HF_HUB_OFFLINE is set" in line for line in _unmet(file))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    said = _unmet(file)
    assert [line.partition(":")[0] for line in said] == ["training.push_to_hub", "model.token"]
    assert all("needs a login to the hub; set HF_TOKEN" in line for line in said)
    monkeypatch.setenv("HF_TOKEN", "x")
    assert _unmet(file) == []
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "nobody").mkdir()
    (tmp_path / "nobody" / "token").write_text("x")
    assert _unmet(file) == []


def test_compiling_needs_a_compiler(write_run: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = write_run(training={"torch_compile": True})
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert [line for line in _unmet(file) if "needs a C++ compiler" in line]
    eager = write_run("eager", training={"torch_compile": True, "torch_compile_backend": "aot_eager"})
    assert _unmet(eager) == []


def test_pictures_need_matplotlib(write_run: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.run_config.machine.is_installed", lambda module: module != "matplotlib")
    assert _unmet(write_run(results={"formats": ["html", "svg"]})) == []
    said = "results.formats: png needs a package that is not installed; run pip install matplotlib"
    assert _unmet(write_run(results={"formats": ["png"]})) == [said]


@pytest.mark.parametrize(("capability", "has_bf16"), [("7.5", False), ("9.0", True)])
def test_capabilities_of_a_gpu(
    capability: str, has_bf16: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(f'#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0: some" || echo {capability}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("utils.run_config.devices._torch_build", lambda: "cuda: Optional[str] = '12.8'\n")
    monkeypatch.setattr("sys.platform", "linux")
    assert Machine.look.__wrapped__(Machine) == Machine(gpu=True, bf16=has_bf16, tf32=has_bf16)


def test_a_refusal_lists_every_location_and_validation_only_warns(write_run: Write) -> None:
    file = write_run(training={"report_to": "wandb", "optim": "grokadamw"})
    config = load_run_config(file, ["training.use_liger_kernel=true"])
    with pytest.raises(ConfigError) as caught:
        require_machine(config)
    lines = str(caught.value).splitlines()
    assert [line.split("  ")[1].split(":")[0] for line in lines] == [
        "training.report_to", "training.optim", "training.use_liger_kernel",
    ]  # fmt: skip
    assert all(line.startswith(str(file)) for line in lines[:2])
    check = check_machine(config)
    assert not check.problems
    assert sorted(check.warnings) == sorted(lines)


@pytest.mark.parametrize(("written", "named"), [("nonsense", "nonsense"), (["wandb", "none"], "none"), (["al"], "al")])
def test_an_unknown_tracker_is_refused(written: Any, named: str, write_run: Write) -> None:
    with pytest.raises(ConfigError, match=rf"training\.report_to: no tracker called {named}\b"):
        load_run_config(write_run(training={"report_to": written}))


@pytest.mark.parametrize("written", ["all", "none", ["none"], ["tensorboard"], []])
def test_known_trackers(written: Any, write_run: Write) -> None:
    load_run_config(write_run(training={"report_to": written}))


@pytest.mark.parametrize(
    ("training", "key"),
    [
        ({"optim": "galore_adamw"}, "training.optim: galore_adamw needs training.optim_target_modules"),
        ({"optim_args": "foo"}, "training.optim_args: takes pairs joined by commas"),
        ({"dataloader_prefetch_factor": 2}, "training.dataloader_prefetch_factor: needs training.dataloader_num_work"),
        ({"torch_empty_cache_steps": 0}, "training.torch_empty_cache_steps: 0 is not allowed"),
        (
            {"optim": "galore_adamw_layerwise", "optim_target_modules": "a", "gradient_accumulation_steps": 2},
            "training.gradient_accumulation_steps: not with training.optim: galore_adamw_layerwise",
        ),
    ],
)
def test_settings_that_require_others(training: dict[str, Any], key: str, write_run: Write) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load_run_config(write_run(training=training))


def test_train_refuses_before_torch_is_imported(tmp_path: Path) -> None:
    words = ["--config", "configs/quickstart.yaml", f"training.output_dir={tmp_path / 'out'}"]
    requests = [["train", [*words, each]] for each in ("training.report_to=wandb", "training.use_liger_kernel=true")]
    answers = run_without_ml(requests)
    for answer, name in zip(answers, ("report_to: wandb", "use_liger_kernel:"), strict=True):
        assert answer["code"] == 2
        assert f"error: command line  training.{name}" in answer["err"]
        assert "Traceback" not in answer["err"]
    assert not (tmp_path / "out").exists()


def test_bf16_auto_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = {
        "GPU": (Machine(gpu=True, bf16=True, tf32=True), set(), {"bf16": True}),
        "old GPU": (Machine(gpu=True, bf16=False, tf32=False), {"avx512_bf16"}, {"bf16": False}),
        "new CPU": (NOTHING, {"avx2", "avx512_bf16"}, {"bf16": True, "use_cpu": True}),
        "old CPU": (NOTHING, {"avx2"}, {"bf16": False}),
    }
    for machine, flags, chosen in machines.values():
        monkeypatch.setattr(Machine, "look", lambda machine=machine: machine)
        monkeypatch.setattr("utils.run_config.devices._cpu_flags", lambda flags=flags: flags)
        assert choose_bf16({}) == chosen
    assert choose_bf16({"fp16": True}) == {"bf16": False}


def test_bf16_auto_is_resolved_in_the_run(write_run: Write) -> None:
    config = load_run_config(write_run(training={"bf16": "auto"}))
    assert config.arguments["bf16"] == bool(choose_bf16({}).get("bf16"))
    assert any("training.bf16: auto is" in each for each in config.notices)
