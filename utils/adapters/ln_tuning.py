"""Layer norm tuning, passed through to peft.

Source: Zhao et al. 2023, arXiv:2312.11420.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("ln_tuning", "LNTuningConfig", learning_rate=1e-2, adapts="norms"),
    "The layers' norms are trained, nothing else of the body.",
)
