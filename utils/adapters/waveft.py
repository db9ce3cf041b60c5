"""WaveFT, passed through to peft.

Source: Bilican et al. 2025, arXiv:2505.12532.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("waveft", "WaveFTConfig"),
    "An update with few trained coefficients in the wavelet domain.",
)
