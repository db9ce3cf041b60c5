"""What the comparison of two models' logits detects and what it tolerates."""

from __future__ import annotations

import numpy as np
import pytest

from utils.core.errors import CheckError
from utils.modeling.verify import describe_difference, prove_merged

DRAW = np.random.default_rng(0)
WITHOUT = DRAW.normal(size=(64, 50)).astype(np.float32)
TRAINED = WITHOUT + DRAW.normal(size=(64, 50)).astype(np.float32) * 0.05


def test_the_measured_difference():
    first, second = np.array([[1.0, 2.0], [5.0, 4.0]]), np.array([[1.5, 2.0], [3.0, 4.0]])
    found = describe_difference(first, second)
    assert found == {"largest_difference": 2.0, "mean_difference": 0.625, "top1_agreement": 0.5}
    assert describe_difference(first[:, :1], second[:, :1])["top1_agreement"] is None


def test_equal_models():
    report = prove_merged(TRAINED, WITHOUT, TRAINED, "float32")
    assert report["update_kept"] == pytest.approx(1, abs=1e-4)
    assert report["tolerance"] == pytest.approx(1e-4 * abs(TRAINED).max())


@pytest.mark.parametrize(("dtype", "noise"), [("float32", 1e-4), ("float16", 2e-2), ("bfloat16", 1e-1)])
def test_the_tolerance_is_relative_to_the_largest_logit(dtype, noise):
    for scale in (0.1, 1, 100):
        logits = TRAINED * scale
        largest = abs(logits).max()
        prove_merged(logits, None, logits + noise * largest * 0.99, dtype)
        with pytest.raises(CheckError, match="rounding in"):
            prove_merged(logits, None, logits + noise * largest * 1.01, dtype)


def test_a_lost_update_below_the_tolerance_is_detected():
    """Its effect is about 5 % of the largest logit, half of the difference that bfloat16 is allowed."""
    assert abs(TRAINED - WITHOUT).max() < 0.1 * abs(TRAINED).max()
    with pytest.raises(CheckError, match="keeps only 0% of what the adapter changes"):
        prove_merged(TRAINED, WITHOUT, WITHOUT, "bfloat16")
    rounded = TRAINED + DRAW.normal(size=TRAINED.shape).astype(np.float32) * 0.02
    assert prove_merged(TRAINED, WITHOUT, rounded, "bfloat16")["update_kept"] == pytest.approx(1, abs=0.1)


def test_an_update_lost_in_rounding_is_not_judged():
    barely = WITHOUT + (TRAINED - WITHOUT) * 0.01
    assert prove_merged(barely, WITHOUT, WITHOUT, "bfloat16")["update_kept"] is None


def test_non_finite_logits():
    broken = TRAINED.copy()
    broken[0, 0] = np.nan
    with pytest.raises(CheckError, match="its training has diverged"):
        prove_merged(broken, None, TRAINED, "float32")
    with pytest.raises(CheckError, match="not the trained one"):
        prove_merged(TRAINED, None, broken, "float32")
