"""FourierFT, passed through to peft.

Source: Gao et al. 2024, arXiv:2405.03003.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("fourierft", "FourierFTConfig", learning_rate=1e-1),
    "An update with few trained coefficients in the Fourier domain.",
)
