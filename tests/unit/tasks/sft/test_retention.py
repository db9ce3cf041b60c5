"""Forgetting is measured on the exact base and on the saved weights, row by row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands.in_process import command
from tests.model_server import BASE
from utils.core.errors import ConfigError
from utils.metrics.bootstrap import bootstrap_difference

TEXT = "Once Tom had nine red apples in a box. He gave three of them to Ann, who ate two.\n" * 40


def _read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def _perplexity(model: Any, tokenizer: Any, text: str) -> tuple[float, list[float]]:
    """Compute perplexity from the library's own loss, in windows of 256 positions."""
    ids, losses, counts = tokenizer(text, add_special_tokens=False)["input_ids"], [], []
    for at in range(0, len(ids), 255):
        row = torch.tensor([[tokenizer.bos_token_id, *ids[at : at + 255]]])
        with torch.no_grad():
            losses.append(float(model(input_ids=row, labels=row).loss))
        counts.append(row.shape[1] - 1)
    sums = [loss * count for loss, count in zip(losses, counts, strict=True)]
    return math.exp(sum(sums) / sum(counts)), sums


def test_base_and_tuned_scores_are_reported_together(make_sft: Callable[..., Any], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "held.txt").write_text(TEXT)
    sums = {"name": "gsm8k", "path": str(BASE.parent / "arithmetic"), "split": "test[:5]", "label": "sums"}
    config = make_sft(
        peft={"method": "lora", "lora_r": 4, "target_modules": "all-linear", "init_lora_weights": "pissa"},
        evaluation={"at_end": False, "retention": [str(tmp_path / "held.txt"), sums]},
        generation={"max_new_tokens": 8}, training__max_steps=3,
    )  # fmt: skip
    answer = command("train", "--config", config.source)
    run, found = Path(answer["output_dir"]), answer["retention"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(BASE), AutoTokenizer.from_pretrained(BASE)
    values, rows = {}, {}
    for which in ("base", "tuned"):
        model = model if which == "base" else PeftModel.from_pretrained(model, run / "final_model")
        values[which], rows[which] = _perplexity(model.eval(), tokenizer, TEXT)
        stored = _read(run / "retention" / which / "held")
        assert [row["nll"] for row in stored] == pytest.approx(rows[which], rel=1e-4), which
    ppl = found["held"]["metrics"]["perplexity"]
    assert (ppl["base"], ppl["tuned"]) == pytest.approx((values["base"], values["tuned"]), rel=1e-4)
    assert ppl["difference"] == ppl["tuned"] - ppl["base"] != 0
    assert ppl["interval"][0] <= ppl["difference"] <= ppl["interval"][1]
    assert found["sums"]["n"] == 5
    strict = found["sums"]["metrics"]["em_strict"]
    assert strict["interval"] == list(bootstrap_difference(*(
        np.array([row["scores"]["em_strict"] for row in _read(run / "retention" / which / "sums")])
        for which in ("base", "tuned"))))  # fmt: skip
    written = (run / "retention/base/sums/predictions.jsonl").stat().st_mtime_ns
    command("train", "--config", config.source, "--resume")
    assert (run / "retention/base/sums/predictions.jsonl").stat().st_mtime_ns == written


def test_missing_files_are_reported_before_training(make_sft: Callable[..., Any], tmp_path: Path) -> None:
    for entry, said in ((str(tmp_path / "none.txt"), "no such file"), ("gsm9k", "no dataset, file or folder called")):
        with pytest.raises(ConfigError, match=rf"evaluation\.retention: .*{said}"):
            make_sft(evaluation={"at_end": False, "retention": [entry]})


@pytest.mark.parametrize(
    ("both", "one", "other", "neither", "expected"),
    [(36, 12, 2, 0, (0.0569, 0.3404)), (54, 0, 0, 0, (-0.0664, 0.0664))],
)
def test_paired_proportions_have_newcombes_interval(
    both: int, one: int, other: int, neither: int, expected: tuple[float, float]
) -> None:
    """Newcombe 1998 (Statistics in Medicine 17, 2635), table II, method 10."""
    counts = (both, one, other, neither)
    first, second = (np.repeat(values, counts).astype(float) for values in ((1, 1, 0, 0), (1, 0, 1, 0)))
    assert bootstrap_difference(second, first) == pytest.approx(expected, abs=5e-5)


def test_a_paired_interval_is_narrower_than_an_unpaired_one() -> None:
    draw = np.random.default_rng(3)
    base = draw.normal(size=200)
    low, high = bootstrap_difference(base, base + 0.1 + 0.01 * draw.normal(size=200))
    assert 0.09 < low < 0.1 < high < 0.11
    tokens = np.full(200, 10.0)
    assert bootstrap_difference(base + 20, base + 20, weights=tokens, of=np.exp) == (0, 0)
