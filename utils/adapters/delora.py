"""DeLoRA, passed through to peft.

Source: Bini et al. 2025, arXiv:2503.18225.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("delora", "DeloraConfig"),
    "A low-rank update whose direction and strength are trained apart.",
)
