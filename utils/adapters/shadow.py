"""ShadowPEFT, passed through to peft.

Source: peft's documentation of the tuner.
"""

from utils.adapters.passed_through import Tuner, build_config
from utils.adapters.passed_through import attach as attach
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import save as save

_DECODERS_ONLY = "it rides the loop of a decoder's layers; use lora"

Config = build_config(
    Tuner(
        "shadow",
        "ShadowConfig",
        targets=None,
        adapts="decoder blocks",
        merge="a shadow model computes beside the base and changes none of its weights; use the adapter on its base",
        model_types=dict.fromkeys(
            (
                "albert",
                "bert",
                "deberta",
                "deberta-v2",
                "distilbert",
                "electra",
                "modernbert",
                "roberta",
                "xlm-roberta",
            ),
            _DECODERS_ONLY,
        ),
    ),
    "A small trained model beside a decoder, which corrects the input of every layer.",
)
