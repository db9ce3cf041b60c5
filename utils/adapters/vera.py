"""VeRA, passed through to peft.

Source: Kopiczko et al. 2023, arXiv:2310.11454.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("vera", "VeraConfig", learning_rate=1e-2, takes_quantized=True),
    "Trained vectors that scale two random matrices which all layers share.",
)
