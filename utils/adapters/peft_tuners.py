"""peft's other tuners, each a method by its own name and with its own fields.

A row says which class of peft it is and what there is to know about it here; `passed_through` does the rest.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

from utils.adapters import peft_layout
from utils.adapters.peft_tuner import Tuner, attach, build_config

_NO_ENCODERS = dict.fromkeys(
    ("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"),
    "it rides the loop of a decoder's layers; use lora",
)
_LYCORIS = ("peft.tuners.lycoris_utils", "LycorisConfig")

TABLE: dict[str, Tuner] = {
    "boft": Tuner(
        "BOFTConfig",
        "Weights turned by trained orthogonal butterfly factors.",
        "Liu et al. 2023, arXiv:2311.06243",
        takes_quantized=True,
        one_of=("boft_block_size", "boft_block_num"),
    ),
    "c3a": Tuner(
        "C3AConfig",
        "An update of circulant blocks; block_size has to divide the layers' sizes.",
        "Chen et al. 2024, arXiv:2407.19342",
        learning_rate=3e-2,
    ),
    "delora": Tuner(
        "DeloraConfig",
        "A low-rank update whose direction and strength are trained apart.",
        "Bini et al. 2025, arXiv:2503.18225",
    ),
    "fourierft": Tuner(
        "FourierFTConfig",
        "An update with few trained coefficients in the Fourier domain.",
        "Gao et al. 2024, arXiv:2405.03003",
        learning_rate=1e-1,
    ),
    "hra": Tuner(
        "HRAConfig",
        "Weights turned by a chain of trained Householder reflections.",
        "Yuan et al. 2024, arXiv:2405.17484",
        learning_rate=1e-2,
    ),
    "ln_tuning": Tuner(
        "LNTuningConfig",
        "The layers' norms are trained, nothing else of the body.",
        "Zhao et al. 2023, arXiv:2312.11420",
        learning_rate=1e-2,
        adapts="norms",
    ),
    "loha": Tuner(
        "LoHaConfig",
        "The elementwise product of two low-rank updates.",
        "Hyeon-Woo et al. 2021, arXiv:2108.06098",
        learning_rate=1e-2,
        inherits=_LYCORIS,
    ),
    "lokr": Tuner(
        "LoKrConfig",
        "The Kronecker product of two small updates.",
        "Yeh et al. 2023, arXiv:2309.14859",
        learning_rate=1e-2,
        inherits=_LYCORIS,
    ),
    "miss": Tuner(
        "MissConfig",
        "One trained matrix per layer, shared among shards of its weight.",
        "Kang and Yin 2024, arXiv:2409.15371",
        takes_quantized=True,
    ),
    "oft": Tuner(
        "OFTConfig",
        "Weights turned by trained orthogonal blocks.",
        "Qiu et al. 2023, arXiv:2306.07280",
        takes_quantized=True,
        one_of=("r", "oft_block_size"),
    ),
    "randlora": Tuner(
        "RandLoraConfig",
        "A full-rank update: trained scales of fixed random low-rank matrices.",
        "Albert et al. 2025, arXiv:2502.00987",
        takes_quantized=True,
    ),
    "road": Tuner(
        "RoadConfig",
        "Outputs turned in pairs by trained angles; group_size has to divide the layers' sizes.",
        "Liao and Monz 2024, arXiv:2409.00119",
        learning_rate=1e-2,
        takes_quantized=True,
    ),
    "shadow": Tuner(
        "ShadowConfig",
        "A small trained model beside a decoder, which corrects the input of every layer.",
        "peft's documentation of the tuner",
        targets=None,
        adapts="decoder blocks",
        merge="a shadow model computes beside the base and changes none of its weights; use the adapter on its base",
        model_types=_NO_ENCODERS,
    ),
    "vera": Tuner(
        "VeraConfig",
        "Trained vectors that scale two random matrices which all layers share.",
        "Kopiczko et al. 2023, arXiv:2310.11454",
        learning_rate=1e-2,
        takes_quantized=True,
    ),
    "waveft": Tuner(
        "WaveFTConfig",
        "An update with few trained coefficients in the wavelet domain.",
        "Bilican et al. 2025, arXiv:2505.12532",
    ),
}
"""By method."""


@cache
def load_plugin(name: str) -> SimpleNamespace:
    """Give a row as what a method's module offers: Config, attach, save, load and, where it can be merged, merge."""
    tuner = TABLE[name]
    config = build_config(name, tuner)
    merge = {} if tuner.merge else {"merge": peft_layout.merge}
    return SimpleNamespace(
        __doc__=f"{tuner.description}\n\nSource: {tuner.source}.",
        Config=config,
        attach=attach,
        save=peft_layout.save,
        load=peft_layout.load,
        **merge,
    )
