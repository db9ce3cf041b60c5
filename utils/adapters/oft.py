"""OFT, passed through to peft.

Source: Qiu et al. 2023, arXiv:2306.07280.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("oft", "OFTConfig", takes_quantized=True, one_of=("r", "oft_block_size")),
    "Weights turned by trained orthogonal blocks.",
)
