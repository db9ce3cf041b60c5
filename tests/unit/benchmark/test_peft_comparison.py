"""The rows of peft's public comparison: each is planned, and trains as many parameters as peft published.

The figures are `train_info.num_trainable_params` of huggingface/peft, method_comparison/MetaMathQA/results, by the
files' names; those that are not here have not been looked up.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SUITE = Path(__file__).parents[3] / "configs" / "benchmarks" / "peft_metamathqa.yaml"
LLAMA_3_2_3B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 3072, "intermediate_size": 8192,
    "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
"""What decides the size of the base, of its config.json."""
PUBLISHED = {
    "adalora-rank32": 18_353_664, "adaptionprompt-lr_0.0005": 8_601_628, "beft-target-v_proj": 28_672,
    "boft-default": 802_816, "c3a-default": 5_505_024, "deft-rank32": 9_175_040, "delora-rank32": 9_175_096,
    "fourierft-default": 56_000, "full-finetuning-lr_0.00001": 3_212_749_824, "glora-default": 4_587_520,
    "gralora-rank32": 9_175_040, "hira-rank32-lr4.5e-3": 9_175_040, "ia3-default": 286_720,
    "lily-rank140-mlp-a2-b2-s8.0": 9_485_280, "ln_tuning-default": 175_104, "loha-rank32": 18_350_080,
    "lokr-rank32": 279_552, "lora-rank10-target-mlp": 9_461_760, "lora-rank32-dora": 9_289_728,
    "lora-rank32-mica": 5_505_024, "lora-rank64-rslora": 18_350_080, "miss-default": 7_340_032, "miss-mini": 229_376,
    "oft-rank32": 8_171_520, "osf-rank128": 194_535_936, "peanut-rank32-relu-depth0-s2.0": 7_340_032,
    "prefixtuning-lr_0.001": 11_468_800, "prompt_tuning-lr_0.001": 614_400, "psoft-default": 1_856_512,
    "ptuning-default": 28_382_208, "pvera-default": 143_360, "randlora-default": 9_289_728, "road-lr_0.001": 229_376,
    "shadow-default": 8_659_488, "supertuning-s974-topk": 9_160_312, "supertuning-s99-supra-r32": 12_698_224,
    "tinylora-default": 3_584, "trainable_tokens-sos+eos": 6_144, "unilora-default": 256, "vblora-default": 1_212_416,
    "vera-default": 129_024, "waveft-n_frequency-5000": 280_000, "fourierft-n_frequency-5000": 280_000,
    "glora-vector-paths": 229_376, "ia3-all-attn-5k-lr0.005": 630_784, "lily-rank896-a2-b2-s2.0": 18_450_432,
    "lokr-rank32-factor4-lr0.003": 2_294_656, "osf-default": 2_099_492_864, "tinylora-weight-tying": 64,
    "vblora-bank1024-lr5e4": 4_849_664,
}  # fmt: skip
UNKNOWN = {"adamss-rank32", "frod-default", "frod-sparse0.02-lr_0.001", "shira-lr_0.0003-random_seed_42"}
"""They read the weights, or entries of them, before they know what they train (293,888, 5,456,808, 10,741,640 and
9,175,040 are published)."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Give the suite's runs on a folder with the base's config.json alone, by method."""
    from utils.benchmark.plan import Choices
    from utils.benchmark.search import plan_suite
    from utils.benchmark.suite_reader import read_suite

    base = tmp_path_factory.mktemp("llama")
    (base / "config.json").write_text(json.dumps(LLAMA_3_2_3B), encoding="utf-8")
    plan = plan_suite(read_suite(SUITE), Choices(model=str(base)))
    assert not plan.warnings
    return {run.method: run for run in plan.runs}


def test_every_row_is_planned(runs):
    assert len(runs) == 76
    assert set(PUBLISHED) <= set(runs)
    assert set(runs) >= UNKNOWN


@pytest.mark.slow
def test_as_many_parameters_as_published(runs):
    from utils.benchmark.dry_run import count_runs

    counts = count_runs(list(runs.values()))
    found = {name.removeprefix("gsm8k-").removesuffix("-s0"): count.trainable for name, count in counts.items()}
    assert {method: found[method] for method in PUBLISHED} == PUBLISHED
    assert {method for method, count in found.items() if count is None} == UNKNOWN
