"""BOFT, passed through to peft.

Source: Liu et al. 2023, arXiv:2311.06243.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("boft", "BOFTConfig", takes_quantized=True, one_of=("boft_block_size", "boft_block_num")),
    "Weights turned by trained orthogonal butterfly factors.",
)
