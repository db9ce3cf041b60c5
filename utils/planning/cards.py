"""GPUs for which a plan shows what fits."""

CARDS = {
    "t4": 16, "v100-16g": 16, "v100-32g": 32, "rtx3090": 24, "rtx4090": 24, "rtx5090": 32, "a10": 24, "l4": 24,
    "l40s": 48, "a6000": 48, "a100-40g": 40, "a100-80g": 80, "h100": 80, "h200": 141, "b200": 180,
}  # fmt: skip
"""Memory in GB by the card's name, as its maker states it."""
