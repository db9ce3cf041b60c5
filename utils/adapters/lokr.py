"""LoKr, passed through to peft.

Source: Yeh et al. 2023, arXiv:2309.14859.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("lokr", "LoKrConfig", learning_rate=1e-2, inherits=("peft.tuners.lycoris_utils", "LycorisConfig")),
    "The Kronecker product of two small updates.",
)
