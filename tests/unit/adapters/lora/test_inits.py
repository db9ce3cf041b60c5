"""The names of LoRA initialisations and the settings they exclude, checked before any heavy import."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from utils.adapters.lora import Config
from utils.adapters.lora.inits import INITS, parse_init, rewrites_base
from utils.core.errors import ConfigError
from utils.run_config import load_run_config


@pytest.mark.parametrize("name", INITS)
def test_every_init_name_is_accepted(name):
    assert Config(init_lora_weights=name).init_lora_weights == name


@pytest.mark.parametrize(
    ("written", "read"),
    [(True, True), (False, False), ("true", True), ("PiSSA", "pissa"), ("lora-ga", "lora_ga"),
     ("pissa_niter_4", "pissa_niter_4"), ("pissa-niter-32", "pissa_niter_32")],
)  # fmt: skip
def test_spellings(written, read):
    assert parse_init(written) == read


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("pisa", "no initialisation called pisa; did you mean pissa"),
        ("loraga", "did you mean lora_ga"),
        ("orthogonall", "did you mean orthogonal"),
        ("pissa_niter_", "such as pissa_niter_16"),
        ("pissa_niter_0", "such as pissa_niter_16"),
        ("pissa_niter_two", "such as pissa_niter_16"),
        (3, "3 is not|valid"),
    ],
)
def test_a_wrong_name_suggests_the_nearest(written, message):
    with pytest.raises(ValidationError, match=message):
        Config(init_lora_weights=written)


def test_inits_that_rewrite_the_base():
    assert {name for name in INITS if rewrites_base(name)} == {"pissa", "pissa_niter_16", "olora", "corda", "lora_ga"}
    assert not rewrites_base(True)
    assert not rewrites_base(False)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"init_lora_weights": "orthogonal", "lora_r": 5}, "orthogonal needs even ranks, found 5"),
        ({"init_lora_weights": "orthogonal", "rank_pattern": {"query": 3}}, "needs even ranks, found 3"),
        ({"init_lora_weights": "pissa", "use_rslora": True, "rank_pattern": {"query": 4}}, "twice the rank"),
        ({"init_lora_weights": "lora_ga", "use_rslora": True, "alpha_pattern": {"query": 4}}, "take one of them out"),
        ({"init_lora_weights": "mica", "use_dora": True}, "mica cannot be used with use_dora"),
        ({"init_lora_weights": "mica", "loraplus_lr_ratio": 16}, "freezes B"),
        ({"init_lora_weights": "loftq"}, "set model.quantization: nf4"),
    ],
)
def test_unsupported_combinations_are_refused_before_loading(make_config, keys, message):
    with pytest.raises(ConfigError, match=message):
        make_config(peft={"method": "lora", **keys})


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "mica", "orthogonal"])
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_packed_weight_is_refused_with_an_explanation(make_config, init, quantization):
    with pytest.raises(ConfigError, match=f"{init} cannot be used with a quantized base: it .* use eva, loftq"):
        make_config(peft={"method": "lora", "init_lora_weights": init}, model__quantization=quantization)


@pytest.mark.parametrize(
    ("init", "quantization"), [("eva", "nf4"), ("eva", "int8"), ("gaussian", "nf4"), ("loftq", "nf4"), (True, "int8")]
)
def test_supported_combinations_are_accepted(make_config, init, quantization):
    config = make_config(peft={"method": "lora", "init_lora_weights": init}, model__quantization=quantization)
    assert config.peft.init_lora_weights == init


def test_the_command_line_accepts_an_init_name(make_config):
    file = make_config.write()
    assert load_run_config(file, ["peft.init_lora_weights=pissa_niter_8"]).peft.init_lora_weights == "pissa_niter_8"
    assert load_run_config(file, ["peft.init_lora_weights=false"]).peft.init_lora_weights is False
