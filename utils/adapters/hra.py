"""HRA, passed through to peft.

Source: Yuan et al. 2024, arXiv:2405.17484.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("hra", "HRAConfig", learning_rate=1e-2),
    "Weights turned by a chain of trained Householder reflections.",
)
