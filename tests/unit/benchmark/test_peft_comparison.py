"""The rows of peft's public comparison: each is planned, and trains as many parameters as peft published.

The figures are `train_info.num_trainable_params` of huggingface/peft, method_comparison/MetaMathQA/results, by the
files' names.
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
"""The keys of the base's config.json that determine its size."""
PUBLISHED = {
    "adalora-rank32": 18_353_664, "adaptionprompt-lr_0.0005": 8_601_628, "adaptionprompt-lr_5e-3": 8_601_628,
    "beft-target-v_proj": 28_672, "boft-default": 802_816, "c3a-default": 5_505_024, "deft-rank32": 9_175_040,
    "deft-rank32-para": 3_670_016, "delora-rank32": 9_175_096, "fourierft-default": 56_000,
    "fourierft-n_frequency-5000": 280_000, "full-finetuning-lr_0.00001": 3_212_749_824, "glora-default": 4_587_520,
    "glora-vector-paths": 229_376, "gralora-rank32": 9_175_040, "hira-rank32-lr4.5e-3": 9_175_040,
    "ia3-all-attn-5k-lr0.005": 630_784, "ia3-default": 286_720, "ia3-lr_0.001": 286_720,
    "lily-rank140-mlp-a2-b2-s8.0": 9_485_280, "lily-rank896-a2-b2-s2.0": 18_450_432, "ln_tuning-default": 175_104,
    "loha-rank32": 18_350_080, "lokr-rank32": 279_552, "lokr-rank32-factor4-lr0.003": 2_294_656,
    "lora-rank10-target-mlp": 9_461_760, "lora-rank32": 9_175_040, "lora-rank32-dora": 9_289_728,
    "lora-rank32-mica": 5_505_024, "lora-rank64": 18_350_080, "lora-rank64-rslora": 18_350_080,
    "lora-rank64-steps1000": 18_350_080, "miss-bat": 7_340_032, "miss-default": 7_340_032, "miss-mini": 229_376,
    "oft-rank32": 8_171_520, "osf-default": 2_099_492_864, "osf-rank128": 194_535_936,
    "peanut-rank1-relu-depth0-s32.0": 229_376, "peanut-rank32-relu-depth0-s2.0": 7_340_032,
    "prefixtuning-lr_0.001": 11_468_800, "prefixtuning-lr_0.005_zero_init": 11_468_800,
    "prompt_tuning-default": 614_400, "prompt_tuning-lr_0.001": 614_400, "prompt_tuning-sample_vocab-lr_0.001": 614_400,
    "psoft-default": 1_856_512, "psoft-fast": 1_856_512, "ptuning-default": 28_382_208,
    "ptuning-vt20-LSTM": 434_279_424, "ptuning-vt20-MLP-lr5e-4": 28_382_208, "ptuning-vt30-MLP": 28_412_928,
    "ptuning-vt50-LSTM": 434_371_584, "ptuning-vt50-MLP": 28_474_368, "ptuning-vt50-MLP-lr1e-3": 28_474_368,
    "ptuning-vt50-MLP-lr5e-3": 28_474_368, "ptuning-vt50-MLP-lr5e-5": 28_474_368, "pvera-default": 143_360,
    "pvera-rank64": 121_856, "pvera-rank128": 129_024, "pvera-rank512": 172_032, "randlora-default": 9_289_728,
    "road-lr_0.001": 229_376, "shadow-default": 8_659_488, "shadow-mirror": 8_659_488, "shadow-tuned": 8_659_488,
    "supertuning-s974-topk": 9_160_312, "supertuning-s99-supra-r8": 5_816_944, "supertuning-s99-supra-r32": 12_698_224,
    "supertuning-s9935-bottomk": 2_290_064, "supertuning-s9935-topk": 2_290_064, "tinylora-default": 3_584,
    "tinylora-weight-tying": 64, "trainable_tokens-sos+eos": 6_144, "unilora-default": 256,
    "unilora-r4-td131072-lr0.002": 131_072, "vblora-bank1024-lr5e4": 4_849_664, "vblora-default": 1_212_416,
    "vera-default": 129_024, "waveft-n_frequency-5000": 280_000,
}  # fmt: skip
UNKNOWN = {
    "adamss-rank32": 293_888, "frod-default": 5_456_808, "frod-sparse0.02-lr_0.001": 10_741_640,
    "shira-lr_0.0003-random_seed_42": 9_175_040,
}  # fmt: skip
"""Published figures of methods that need the weights, or entries of them, to know what they train."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the suite's runs by method, on a folder that holds only the base's config.json."""
    from utils.benchmark.choices import Choices
    from utils.benchmark.search import plan_suite
    from utils.benchmark.suite_reader import read_suite

    base = tmp_path_factory.mktemp("llama")
    (base / "config.json").write_text(json.dumps(LLAMA_3_2_3B), encoding="utf-8")
    plan = plan_suite(read_suite(SUITE), Choices(model=str(base)))
    assert not plan.warnings
    return {run.method: run for run in plan.runs}


def test_every_row_is_planned(runs):
    assert set(runs) == {*PUBLISHED, *UNKNOWN}


@pytest.mark.slow
def test_as_many_parameters_as_published(runs):
    from utils.benchmark.dry_run import count_runs

    counts = count_runs(list(runs.values()))
    found = {name.removeprefix("gsm8k-").removesuffix("-s0"): count.trainable for name, count in counts.items()}
    assert found == PUBLISHED | dict.fromkeys(UNKNOWN)
