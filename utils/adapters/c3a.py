"""C3A, passed through to peft.

Source: Chen et al. 2024, arXiv:2407.19342.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("c3a", "C3AConfig", learning_rate=3e-2),
    "An update of circulant blocks; block_size has to divide the layers' sizes.",
)
