"""LoHa, passed through to peft.

Source: Hyeon-Woo et al. 2021, arXiv:2108.06098.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("loha", "LoHaConfig", learning_rate=1e-2, inherits=("peft.tuners.lycoris_utils", "LycorisConfig")),
    "The elementwise product of two low-rank updates.",
)
