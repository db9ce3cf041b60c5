"""What every plugin must offer, whichever plugins exist; and that a plugin missing from the layers' map is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scoring import compute_metric
from utils.adapters.peft_tuners import TABLE
from utils.core import registry
from utils.core.registry import LIBRARY
from utils.metrics import pass_at_k
from utils.metrics.metric import load_metric

ADAPTERS, DATASETS, METRICS = (registry.names(package) for package in ("adapters", "datasets", "metrics"))
TINY = {"llama": "LlamaForSequenceClassification", "bert": "BertForSequenceClassification"}
QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
SMALL = {
    "c3a": {"block_size": 16}, "fourierft": {"n_frequency": 50}, "miss": {"r": 8}, "road": {"group_size": 16},
    "waveft": {"n_frequency": 50}, "psoft": {"r": 8}, "pvera": {"d_initial": 2.0}, "shira": {"r": 4},
    "vblora": {"vector_length": 16}, "adaption_prompt": {"adapter_len": 4, "adapter_layers": 2},
    "trainable_tokens": {"token_indices": list(range(40))},
}  # fmt: skip
"""Sizes for the tiny models, where the defaults do not fit."""
NEVER_READ = ("position", "layers.1.shadow_update_", "glora_D")
"""Positions beyond the rows' end; what the last layer of a shadow hands on, where there is no next one; the scale of a
bias, which is zero in these bases."""
REQUIRED = {"glue": {"subset": "cola"}, "custom": {"path": "rows.jsonl"}}


def test_there_are_plugins_in_every_package():
    assert {"lora", "none", "head_only", "adalora", "ia3", "prefix_tuning", "prompt_tuning", "p_tuning"} <= set(
        ADAPTERS
    )
    assert {"glue", "custom"} <= set(DATASETS)
    assert {"accuracy", "f1", "mse", "pearson"} <= set(METRICS)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_plugin_is_complete(name):
    plugin = registry.load("adapters", name)
    assert registry.normalize(plugin.Config().method) == name
    assert all(callable(getattr(plugin, each)) for each in ("attach", "save", "load"))
    assert plugin.__doc__
    assert plugin.Config.__doc__
    limits = plugin.Config.LIMITS
    assert callable(getattr(plugin, "merge", None)) != bool(limits.merge), "merge, or a reason why not"
    sentences = (
        limits.quantization,
        limits.causal_lm,
        limits.classification,
        limits.packing,
        limits.gradient_checkpointing,
        limits.merge,
    )
    assert all(sentence is None or len(sentence.split()) > 4 for sentence in sentences)


@pytest.mark.parametrize(
    ("name", "family"),
    [(name, "llama") for name in ADAPTERS]
    + [pytest.param(name, "bert", marks=[pytest.mark.slow] if name in TABLE else []) for name in ADAPTERS],
)
def test_an_adapter_trains_its_declared_parameters_and_reloads(name, family, tiny_base, load_tokenizer_of, tmp_path):
    import torch

    from utils.adapters.adapter import AttachContext, load_adapter
    from utils.config.sections.model import ModelSection
    from utils.modeling.base_model import load_base_model
    from utils.modeling.head import build_head_spec

    limits = load_adapter(name).Config.LIMITS
    if reason := limits.classification or limits.model_types.get(family):
        pytest.skip(f"{name} does not support {family}: {reason}")
    section, tokenizer = ModelSection(name_or_path=str(tiny_base(family))), load_tokenizer_of(family)

    def load_base(folder):
        source = section if folder is None else ModelSection(name_or_path=folder)
        return load_base_model(source, tokenizer, build_head_spec(("a", "b", "c")), 42)

    batch = tokenizer(["good w1 w2", "bad", "film"], padding=True, return_tensors="pt")
    plugin = load_adapter(name)
    torch.manual_seed(0)
    model = plugin.attach(
        load_base(None), plugin.Config(**SMALL.get(name, {})), AttachContext("SEQ_CLS", True, 42, num_training_steps=10)
    )
    assert type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__ == TINY[family]
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    frozen = {key: p.detach().clone() for key, p in model.named_parameters() if not p.requires_grad}
    assert trained
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for _ in range(2):  # with B at zero, A gets its first gradient in the second step
        optimizer.zero_grad()
        model.train()(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
        without = [key for key, p in trained.items() if p.grad is None or not p.grad.abs().sum()]
        optimizer.step()
    idle = [key for key in without if not any(part in key for part in NEVER_READ)]
    assert not idle, "every trainable parameter must change"
    state = dict(model.named_parameters())
    assert all(torch.equal(frozen[key], state[key]) for key in frozen)
    with torch.no_grad():
        expected = model.eval()(**batch).logits
        plugin.save(model, tmp_path / "saved")
        actual = plugin.load(tmp_path / "saved", load_base).eval()(**batch).logits
    assert (actual - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    "name", [name for name in ADAPTERS if not registry.load("adapters", name).Config.LIMITS.causal_lm]
)
def test_an_adapter_trains_a_language_model_and_reloads(name, tmp_path):
    import torch

    from utils.adapters.adapter import AttachContext, load_adapter
    from utils.config.sections.model import ModelSection
    from utils.modeling.base_model import load_base_model
    from utils.modeling.tokenizer import load_tokenizer

    section = ModelSection(name_or_path=str(QUICKSTART / "base"), dtype="float32")
    tokenizer = load_tokenizer(section)

    def load_base(folder):
        return load_base_model(section if folder is None else ModelSection(name_or_path=folder), tokenizer, None)

    plugin = load_adapter(name)
    torch.manual_seed(0)
    model = plugin.attach(
        load_base(None),
        plugin.Config(**SMALL.get(name, {})),
        AttachContext("CAUSAL_LM", False, 42, num_training_steps=10),
    )
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    ids = tokenizer(["the dog sees the old house"], return_tensors="pt")["input_ids"]
    optimizer = torch.optim.SGD(trained.values(), lr=0.05)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model.train()(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        plugin.save(model, tmp_path / "saved")
        actual = plugin.load(tmp_path / "saved", load_base).eval()(input_ids=ids).logits
    assert (actual - expected).abs().max() < 1e-6


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_plugin_is_complete(name):
    plugin = registry.load("datasets", name)
    config = plugin.Config(**REQUIRED.get(name, {}))
    assert registry.normalize(config.name) == name
    assert len(plugin.__doc__.splitlines()) > 1, "the docstring must show a row"
    assert "{" in plugin.__doc__
    assert plugin.Config.TASK_TYPES
    if "SEQ_CLS" in plugin.Config.TASK_TYPES:
        described = plugin.describe_classification(config)
        assert 1 <= len(described.text_columns) <= 2
        assert described.metrics
        assert {load_metric(metric).kind for metric in described.metrics} <= {"classification", "regression"}
    if "CAUSAL_LM" in plugin.Config.TASK_TYPES:
        asked = plugin.describe_instructions(config)
        assert asked.path
        assert asked.protocol
        assert {load_metric(metric).kind for metric in asked.metrics} == {"generation"}
    for field, info in plugin.Config.model_fields.items():
        assert field in ("name", "method") or info.description, f"{field} has no docstring"


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_plugin_is_complete(name):
    metric = registry.load("metrics", name).METRIC
    assert metric.name == name
    assert metric.low < metric.high
    assert metric.description
    assert not metric.many_labels or metric.many_labels in METRICS


@pytest.mark.parametrize("name", METRICS)
def test_perfect_predictions_give_a_metrics_best_value(name, monkeypatch):
    metric = registry.load("metrics", name).METRIC
    rows, worse, labels = ([0, 1, 1, 0, 1], [1, 1, 0, 0, 1], 2)
    if metric.kind == "regression":
        rows, worse, labels = ([0.5, 1.0, 3.0, -2.0], [0.5, 3.0, 1.0, -2.0], 1)
    if metric.kind == "generation":
        form = (
            "#### {0}\n\\boxed{{{0}}}\nFinal Answer: The final answer is {0}. I hope it is correct.\nThe answer is: {0}"
        )
        rows = [form.format(number) for number in (1, 2, 3)]
        worse, labels = ["none", "#### 2", "#### 4"], 1
    texts = rows
    if metric.runs_code:
        monkeypatch.setattr(pass_at_k._Consent, "given", True)
        texts, worse = ["x = 1", "x = 2", "x = 3"], ["x = 1", "x = 1", "exit()"]
        rows = [{"before": "", "tests": f"assert x == {number}"} for number in (1, 2, 3)]
    elif metric.reference_keys:
        rows = [{"subset": "hotpotqa", "answers": [text], "correct": [text], "incorrect": ["no"]} for text in texts]
    best = compute_metric(metric.name, texts, rows, labels)
    assert best == pytest.approx(metric.high if metric.greater_is_better else metric.low)
    assert (compute_metric(metric.name, worse, rows, labels) < best) == metric.greater_is_better


def test_a_module_missing_from_the_layers_is_detected(tmp_path: Path):
    """import-linter's list of layers is exhaustive: an unlisted module fails the check."""
    shutil.copytree(LIBRARY, tmp_path / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(LIBRARY.parent / "pyproject.toml", tmp_path)

    def lint() -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    clean = lint()
    assert clean.returncode == 0, clean.stdout
    (tmp_path / "utils" / "stray.py").write_text('"""Stands on no layer."""\n')
    strayed = lint()
    assert strayed.returncode != 0
    assert "stray" in strayed.stdout
