"""peft's other tuners, each a method by its own name and with its own fields, checked against the installed peft.

A row of the table says which class of peft it is and what there is to know about it here; what there is to say of its
fields stands in peft.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

from utils.adapters import peft_layout
from utils.adapters.tuner import Tuner, attach, build_config

_ENCODERS = (
    "albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta",
)  # fmt: skip
_NO_HEAD = "peft saves no new head with it; use lora"
_LYCORIS = ("peft.tuners.lycoris_utils", "LycorisConfig")

TABLE: dict[str, Tuner] = {
    "adamss": Tuner(
        "AdamssConfig", "Low-rank updates within clusters of a weight's singular directions.",
        "Zheng et al. 2025, AdaMSS, NeurIPS 2025",
        refuses={"use_asa": "its importances are in no checkpoint; leave it out, or use adalora, which moves ranks"},
    ),
    "adaption_prompt": Tuner(
        "AdaptionPromptConfig", "Tokens that attention in the last layers reads too, by a gate from 0 (LLaMA-Adapter).",
        "Zhang et al. 2023, arXiv:2303.16199", takes_quantized=True, targets=None, adapts="attention modules",
        needs=("adapter_len", "adapter_layers"), classification=_NO_HEAD,
        merge="its tokens are no change of the base's weights; use the adapter on its base, or train by lora",
        model_types=dict.fromkeys(_ENCODERS, "peft has it for llama, mistral and gpt2; use lora"),
    ),
    "beft": Tuner(
        "BeftConfig", "A trained bias beside each target's output.", "Huang et al. 2025, arXiv:2509.15974",
        targets={"albert": ["value"], "distilbert": ["v_lin"], "modernbert": ["Wqkv"], "smollm3": ["v_proj"]},
    ),
    "boft": Tuner(
        "BOFTConfig", "Weights turned by trained orthogonal butterfly factors.",
        "Liu et al. 2023, arXiv:2311.06243", takes_quantized=True, one_of=("boft_block_size", "boft_block_num"),
    ),
    "c3a": Tuner(
        "C3AConfig", "An update of circulant blocks; block_size has to divide the layers' sizes.",
        "Chen et al. 2024, arXiv:2407.19342", learning_rate=3e-2, as_lora=True,
    ),
    "deft": Tuner(
        "DeftConfig", "A trained subspace of the weight, taken out and filled anew; with para: taken out alone.",
        "peft's documentation of the tuner",
    ),
    "delora": Tuner(
        "DeloraConfig", "A low-rank update whose direction and strength are trained apart.",
        "Bini et al. 2025, arXiv:2503.18225", as_lora=True,
    ),
    "fourierft": Tuner(
        "FourierFTConfig", "An update with few trained coefficients in the Fourier domain.",
        "Gao et al. 2024, arXiv:2405.03003", learning_rate=1e-1, as_lora=True,
    ),
    "frod": Tuner(
        "FrodConfig", "A full-rank update: trained scales and few entries between bases that layers of a kind share.",
        "doi:10.1609/aaai.v40i31.39813",
    ),
    "glora": Tuner(
        "GloraConfig", "Trained scales, shifts and low-rank parts of both weight and bias.",
        "Chavan et al. 2023, arXiv:2306.07967",
    ),
    "gralora": Tuner(
        "GraloraConfig", "A LoRA of its own for every block of the weight; gralora_k has to divide the layers' sizes.",
        "Jung et al. 2025, arXiv:2505.20355", as_lora=True,
    ),
    "hira": Tuner(
        "HiraConfig", "The elementwise product of the weight and a low-rank matrix.",
        "Huang et al. 2025, ICLR 2025, openreview TwJrTz9cRS", takes_quantized=True,
    ),
    "hra": Tuner(
        "HRAConfig", "Weights turned by a chain of trained Householder reflections.",
        "Yuan et al. 2024, arXiv:2405.17484", learning_rate=1e-2,
    ),
    "lily": Tuner(
        "LilyConfig", "LoRA whose A neighbouring layers share and whose B a router mixes from some for all layers.",
        "Zhong et al. 2024, arXiv:2407.09946",
        merge="its router chooses by the input, which no weight can; use the adapter on its base, or train by lora",
    ),
    "ln_tuning": Tuner(
        "LNTuningConfig", "The layers' norms are trained, nothing else of the body.",
        "Zhao et al. 2023, arXiv:2312.11420", learning_rate=1e-2, adapts="norms",
    ),
    "loha": Tuner(
        "LoHaConfig", "The elementwise product of two low-rank updates.",
        "Hyeon-Woo et al. 2021, arXiv:2108.06098", learning_rate=1e-2, inherits=_LYCORIS, as_lora=True,
    ),
    "lokr": Tuner(
        "LoKrConfig", "The Kronecker product of two small updates.",
        "Yeh et al. 2023, arXiv:2309.14859", learning_rate=1e-2, inherits=_LYCORIS, as_lora=True,
    ),
    "miss": Tuner(
        "MissConfig", "One trained matrix per layer, shared among shards of its weight.",
        "Kang and Yin 2024, arXiv:2409.15371", takes_quantized=True, as_lora=True,
    ),
    "oft": Tuner(
        "OFTConfig", "Weights turned by trained orthogonal blocks.",
        "Qiu et al. 2023, arXiv:2306.07280", takes_quantized=True, one_of=("r", "oft_block_size"),
    ),
    "osf": Tuner(
        "OSFConfig", "The weight's small singular directions are trained, at right angles to the large ones.",
        "Nayak et al. 2025, arXiv:2504.07097",
    ),
    "peanut": Tuner(
        "PeanutConfig", "An update that a small trained network makes of the weight itself.",
        "Zhong et al. 2024, arXiv:2410.01870",
    ),
    "psoft": Tuner(
        "PsoftConfig", "A trained rotation among a weight's largest singular directions.",
        "openreview FSHrinMArK", as_lora=True,
    ),
    "pvera": Tuner(
        "PveraConfig", "VeRA whose first scales are drawn in training, from a distribution that is trained.",
        "arXiv:2512.07703", takes_quantized=True,
    ),
    "randlora": Tuner(
        "RandLoraConfig", "A full-rank update: trained scales of fixed random low-rank matrices.",
        "Albert et al. 2025, arXiv:2502.00987", takes_quantized=True, as_lora=True,
    ),
    "road": Tuner(
        "RoadConfig", "Outputs turned in pairs by trained angles; group_size has to divide the layers' sizes.",
        "Liao and Monz 2024, arXiv:2409.00119", learning_rate=1e-2, takes_quantized=True,
    ),
    "shadow": Tuner(
        "ShadowConfig", "A small trained model beside a decoder, which corrects the input of every layer.",
        "peft's documentation of the tuner", targets=None, adapts="decoder blocks",
        merge="a shadow model computes beside the base and changes none of its weights; use the adapter on its base",
        model_types=dict.fromkeys(_ENCODERS, "it rides the loop of a decoder's layers; use lora"),
    ),
    "shira": Tuner(
        "ShiraConfig", "Few entries of the weight are trained, drawn at random.",
        "Bhardwaj et al. 2024, arXiv:2406.13175",
    ),
    "supertuning": Tuner(
        "SupertuningConfig", "The weight's largest (or smallest) entries are trained; with r, a LoRA beside them.",
        "arXiv:2607.09287",
    ),
    "tinylora": Tuner(
        "TinyLoraConfig", "A few trained numbers, spread by fixed random matrices over singular directions.",
        "arXiv:2602.04118", as_lora=True,
    ),
    "trainable_tokens": Tuner(
        "TrainableTokensConfig", "The embeddings of single tokens (token_indices, and model.extra_special_tokens).",
        "peft's documentation of the tuner", takes_quantized=True, targets=None, adapts="embeddings",
        classification=_NO_HEAD,
    ),
    "unilora": Tuner(
        "UniLoraConfig", "LoRA whose matrices of all layers are one trained vector, spread by a fixed projection.",
        "arXiv:2506.00799", as_lora=True,
    ),
    "vblora": Tuner(
        "VBLoRAConfig", "LoRA mixed from one bank of trained vectors; vector_length has to divide the layers' sizes.",
        "Li et al. 2024, arXiv:2405.15179", as_lora=True,
    ),
    "vera": Tuner(
        "VeraConfig", "Trained vectors that scale two random matrices which all layers share.",
        "Kopiczko et al. 2023, arXiv:2310.11454", learning_rate=1e-2, takes_quantized=True, as_lora=True,
    ),
    "waveft": Tuner(
        "WaveFTConfig", "An update with few trained coefficients in the wavelet domain.",
        "Bilican et al. 2025, arXiv:2505.12532", as_lora=True,
    ),
}  # fmt: skip
"""By method."""


@cache
def load_plugin(name: str) -> SimpleNamespace:
    """Give a row as what a method's module offers: Config, attach, save, load and, where it can be merged, merge."""
    tuner = TABLE[name]
    config = build_config(name, tuner)
    merge = {} if tuner.merge else {"merge": peft_layout.merge}
    return SimpleNamespace(
        __doc__=f"{tuner.description}\n\nSource: {tuner.source}.",
        Config=config,
        attach=attach,
        save=peft_layout.save,
        load=peft_layout.load,
        **merge,
    )
