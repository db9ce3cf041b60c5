"""Trainable parameters before a run: counted without loading weights, and equal to the count in training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.dry_run import count_runs, show_plan
from utils.core import registry

ROOT = Path(__file__).parents[3]
METHODS = """methods:
  lora: {peft.method: lora}
  full: {peft.method: none}
  head-only: {peft.method: head-only}
"""


def test_a_part_without_runs_is_shown(plan_of: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert show_plan(plan_of("tasks: {a: {}}\n", shard=(2, 2)))["runs"] == []
    assert capsys.readouterr().out.startswith("\n0 runs of the suite's 1; folder: ")


def test_counts_equal_those_of_training(plan_of: Callable[..., Any], tmp_path: Path) -> None:
    """Compared with the sizes in the checkpoint; a LoRA run on this base reports 71,936 of 859,520 itself."""
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    runs = plan_of("tasks: {a: {}}\n" + METHODS + "grid: {peft.lora_r: [2, 8]}\n").runs
    strange = plan_of("tasks: {strange: {}}\n", model=str(tmp_path)).runs
    far = plan_of("tasks: {far: {}}\n", model="nobody/nothing-here").runs
    counts = count_runs([*runs, *strange, *far])

    shapes = read_shapes(ROOT / "examples" / "quickstart" / "base" / "model.safetensors")
    body, head = sum(math.prod(shape) for shape in shapes.values()), 2 * 128
    lora = sum(sum(shape) for name, shape in shapes.items() if ".layers." in name and len(shape) == 2)
    expected = {
        "a-lora-lora_r=2-s42": (2 * lora + head, body + 2 * lora + head),
        "a-lora-lora_r=8-s42": (8 * lora + head, body + 8 * lora + head),
        "a-full-s42": (body + head, body + head),
        "a-head-only-s42": (head, body + head),
    }
    assert {run.name: (counts[run.name].trainable, counts[run.name].total) for run in runs} == expected
    assert counts["a-lora-lora_r=8-s42"].trainable == 71_936
    assert "cannot be counted on the meta device" in counts["strange-lora-s42"].note
    assert counts["far-lora-s42"].note == "the config.json of nobody/nothing-here is not on this machine yet"


@pytest.mark.slow
def test_every_method_and_initialisation_can_be_counted(plan_of: Callable[..., Any]) -> None:
    """All in one process, where one failure would lose the other counts.

    The initialisation of LoRA changes the values of its parameters, not their number; mica trains A only.
    """
    methods = "".join(
        f"  {name}: {{peft: {{method: {name}, target_modules: null{_SIZES.get(name, '')}}}}}\n" for name in _METHODS
    )
    methods += "".join(f"  {name}: {{peft: {{method: {name}}}}}\n" for name in _WITHOUT_TARGETS)
    targets = "peft.target_modules: [q_proj, o_proj]"
    methods += "".join(f"  start_{kind}: {{peft.init_lora_weights: {kind}, {targets}}}\n" for kind in _INITS)
    methods += "  mixed: {peft.init_lora_weights: eva, peft.target_modules: [q_proj, down_proj]}\n"
    counts = count_runs(plan_of("tasks: {a: {}}\nmethods:\n" + methods).runs)
    assert len(counts) == len(_METHODS) + len(_WITHOUT_TARGETS) + len(_INITS) + 1
    assert "eva moves ranks from layer to layer" in counts.pop("a-mixed-s42").note
    unknown = {name.split("-")[1] for name, count in counts.items() if count.trainable is None}
    assert unknown == {"adamss", "frod", "shira", "supertuning"}, "they need weights, which are missing here"

    shapes = read_shapes(ROOT / "examples" / "quickstart" / "base" / "model.safetensors")
    chosen = [shape for name, shape in shapes.items() if "q_proj" in name or "o_proj" in name]
    whole, of_a, head = sum(map(sum, chosen)), sum(inputs for _, inputs in chosen), 2 * 128
    for kind in _INITS:
        expected = head + 8 * (of_a if kind == "mica" else whole)
        assert counts[f"a-start_{kind}-s42"].trainable == expected, kind


_INITS = ("true", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora", "mica", "eva", "corda", "lora_ga")
_WITHOUT_TARGETS = ("prefix_tuning", "prompt_tuning", "p_tuning", "qst", "none", "head_only", "shadow")
_SIZES = {"c3a": ", block_size: 16", "vblora": ", vector_length: 16"}
_LANGUAGE_MODELS_ONLY = ("adaption_prompt", "trainable_tokens")
_METHODS = tuple(name for name in registry.names("adapters") if name not in (*_WITHOUT_TARGETS, *_LANGUAGE_MODELS_ONLY))


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Read the header of a safetensors file: eight bytes of length, then JSON."""
    content = path.read_bytes()
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {name: each["shape"] for name, each in head.items() if name != "__metadata__"}


def test_counts_that_cannot_be_known_in_advance(plan_of: Callable[..., Any]) -> None:
    def note(words: str) -> str:
        (count,) = count_runs(plan_of("tasks: {a: {" + words + "}}\n").runs).values()
        assert count.trainable is None
        return str(count.note)

    assert note("training.do_train: false") == "nothing is trained"
    assert "number of labels is read from the data" in note("dataset.label_names: null")
    assert "depends on the tokenizer" in note("model.extra_special_tokens: ['<x>']")
