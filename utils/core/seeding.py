"""Seeds every random generator at the two moments that matter."""

from __future__ import annotations


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices).

    Called before the model is loaded, and again before the adapter and the head are initialised, so that
    what a method draws does not depend on how many numbers loading another base model consumed.

    Args:
        seed: Any whole number from 0 to 2**32 - 1.
    """
    from transformers import set_seed

    set_seed(seed)
