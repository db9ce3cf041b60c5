"""RoAd, passed through to peft.

Source: Liao and Monz 2024, arXiv:2409.00119.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

Config = build_config(
    Tuner("road", "RoadConfig", learning_rate=1e-2, takes_quantized=True),
    "Outputs turned in pairs by trained angles; group_size has to divide the layers' sizes.",
)
