"""MiSS, passed through to peft.

Source: Kang and Yin 2024, arXiv:2409.15371.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("miss", "MissConfig", takes_quantized=True),
    "One trained matrix per layer, shared among shards of its weight.",
)
