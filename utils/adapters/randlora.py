"""RandLoRA, passed through to peft.

Source: Albert et al. 2025, arXiv:2502.00987.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("randlora", "RandLoraConfig", takes_quantized=True),
    "A full-rank update: trained scales of fixed random low-rank matrices.",
)
