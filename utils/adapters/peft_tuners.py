"""peft's other tuners: each is a method with its own name and fields, read from the installed peft.

A row of the table names the peft class and what is specific to this project; the fields are documented in peft.
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
        refuses={"use_asa": "its importances are not in checkpoints; leave it out, or use adalora, which moves ranks"},
    ),
    "adaption_prompt": Tuner(
        "AdaptionPromptConfig", "Tokens that the last layers attend to through a gate starting at 0 (LLaMA-Adapter).",
        "Zhang et al. 2023, arXiv:2303.16199", takes_quantized=True, targets=None, adapts="attention modules",
        needs=("adapter_len", "adapter_layers"), classification=_NO_HEAD,
        merge="its tokens do not change the base's weights; use the adapter on its base, or train by lora",
        model_types=dict.fromkeys(_ENCODERS, "peft has it for llama, mistral and gpt2; use lora"),
    ),
    "beft": Tuner(
        "BeftConfig", "A trained bias added to each target's output.", "Huang et al. 2025, arXiv:2509.15974",
        targets={"albert": ["value"], "distilbert": ["v_lin"], "modernbert": ["Wqkv"], "smollm3": ["v_proj"]},
    ),
    "boft": Tuner(
        "BOFTConfig", "Weights rotated by trained orthogonal butterfly factors.",
        "Liu et al. 2023, arXiv:2311.06243", takes_quantized=True, one_of=("boft_block_size", "boft_block_num"),
    ),
    "c3a": Tuner(
        "C3AConfig", "An update of circulant blocks; block_size has to divide the layers' sizes.",
        "Chen et al. 2024, arXiv:2407.19342", learning_rate=3e-2, as_lora=True,
    ),
    "deft": Tuner(
        "DeftConfig", "Replaces a trained subspace of the weight; with para, only removes it.",
        "peft's documentation of the tuner",
    ),
    "delora": Tuner(
        "DeloraConfig", "A low-rank update whose direction and strength are trained separately.",
        "Bini et al. 2025, arXiv:2503.18225", as_lora=True,
    ),
    "fourierft": Tuner(
        "FourierFTConfig", "An update with few trained coefficients in the Fourier domain.",
        "Gao et al. 2024, arXiv:2405.03003", learning_rate=1e-1, as_lora=True,
    ),
    "frod": Tuner(
        "FrodConfig", "A full-rank update: trained scales and a few entries between bases shared by layers of a kind.",
        "doi:10.1609/aaai.v40i31.39813",
    ),
    "glora": Tuner(
        "GloraConfig", "Trained scales, shifts and low-rank parts of both weight and bias.",
        "Chavan et al. 2023, arXiv:2306.07967",
    ),
    "gralora": Tuner(
        "GraloraConfig", "A separate LoRA for every block of the weight; gralora_k has to divide the layers' sizes.",
        "Jung et al. 2025, arXiv:2505.20355", as_lora=True,
    ),
    "hira": Tuner(
        "HiraConfig", "The elementwise product of the weight and a low-rank matrix.",
        "Huang et al. 2025, ICLR 2025, openreview TwJrTz9cRS", takes_quantized=True,
    ),
    "hra": Tuner(
        "HRAConfig", "Weights transformed by a chain of trained Householder reflections.",
        "Yuan et al. 2024, arXiv:2405.17484", learning_rate=1e-2,
    ),
    "lily": Tuner(
        "LilyConfig", "LoRA whose A is shared by neighboring layers and whose B a router mixes from a shared set.",
        "Zhong et al. 2024, arXiv:2407.09946",
        merge="its router depends on the input, as no weight can; use the adapter on its base, or train by lora",
    ),
    "ln_tuning": Tuner(
        "LNTuningConfig", "Of the body, only the norms are trained.",
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
        "OFTConfig", "Weights rotated by trained orthogonal blocks.",
        "Qiu et al. 2023, arXiv:2306.07280", takes_quantized=True, one_of=("r", "oft_block_size"),
    ),
    "osf": Tuner(
        "OSFConfig", "The weight's small singular directions are trained, orthogonal to the large ones.",
        "Nayak et al. 2025, arXiv:2504.07097",
    ),
    "peanut": Tuner(
        "PeanutConfig", "An update that a small trained network computes from the weight.",
        "Zhong et al. 2024, arXiv:2410.01870",
    ),
    "psoft": Tuner(
        "PsoftConfig", "A trained rotation among a weight's largest singular directions.",
        "openreview FSHrinMArK", as_lora=True,
    ),
    "pvera": Tuner(
        "PveraConfig", "VeRA whose first scales are sampled in training from a trained distribution.",
        "arXiv:2512.07703", takes_quantized=True,
    ),
    "randlora": Tuner(
        "RandLoraConfig", "A full-rank update: trained scales of fixed random low-rank matrices.",
        "Albert et al. 2025, arXiv:2502.00987", takes_quantized=True, as_lora=True,
    ),
    "road": Tuner(
        "RoadConfig", "Outputs rotated in pairs by trained angles; group_size has to divide the layers' sizes.",
        "Liao and Monz 2024, arXiv:2409.00119", learning_rate=1e-2, takes_quantized=True,
    ),
    "shadow": Tuner(
        "ShadowConfig", "A small trained model beside a decoder that corrects the input of every layer.",
        "peft's documentation of the tuner", targets=None, adapts="decoder blocks",
        merge="a shadow model computes beside the base and changes none of its weights; use the adapter on its base",
        model_types=dict.fromkeys(_ENCODERS, "it hooks into a decoder's loop over its layers; use lora"),
    ),
    "shira": Tuner(
        "ShiraConfig", "A few randomly chosen entries of the weight are trained.",
        "Bhardwaj et al. 2024, arXiv:2406.13175",
    ),
    "supertuning": Tuner(
        "SupertuningConfig", "The weight's largest (or smallest) entries are trained; with r, a LoRA beside them.",
        "arXiv:2607.09287",
    ),
    "tinylora": Tuner(
        "TinyLoraConfig", "A few trained numbers that fixed random matrices spread over singular directions.",
        "arXiv:2602.04118", as_lora=True,
    ),
    "trainable_tokens": Tuner(
        "TrainableTokensConfig", "Trains the embeddings of some tokens (token_indices, model.extra_special_tokens).",
        "peft's documentation of the tuner", takes_quantized=True, targets=None, adapts="embeddings",
        classification=_NO_HEAD,
    ),
    "unilora": Tuner(
        "UniLoraConfig", "LoRA whose matrices in all layers are a fixed projection of one trained vector.",
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
"""Tuners by method."""


@cache
def load_plugin(name: str) -> SimpleNamespace:
    """Return a row's plug-in: Config, attach, save, load and, if it can be merged, merge."""
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
