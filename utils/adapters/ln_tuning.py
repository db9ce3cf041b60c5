"""Layer norm tuning, passed through to peft.

Source: Zhao et al. 2023, arXiv:2312.11420.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save

_NORMS = {
    "albert": ["LayerNorm", "full_layer_layer_norm"],
    "distilbert": ["sa_layer_norm", "output_layer_norm"],
    "modernbert": ["mlp_norm", "final_norm"],  # the first layer has no attn_norm
    "deberta-v2": ["LayerNorm"],
    "qwen2": ["input_layernorm", "post_attention_layernorm", "norm"],
    "qwen3": ["input_layernorm", "post_attention_layernorm", "norm"],
    "mistral": ["input_layernorm", "post_attention_layernorm", "norm"],
    "gemma": ["input_layernorm", "post_attention_layernorm", "norm"],
}

Config = build_config(
    Tuner("ln_tuning", "LNTuningConfig", targets=_NORMS),
    "The layers' norms are trained, nothing else of the body.",
)
