"""The loss against independent float64 computations and torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from utils.core.errors import ConfigError
from utils.tasks.classification.losses import ClassificationLoss, scale_class_weights

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.1, -1.0], [2.0, 2.5, -0.5], [-1.0, 0.0, 1.0]])
LABELS = torch.tensor([0, 2, 1, 1])


def _log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def test_class_weights_equal_a_float64_computation():
    """w_c = (1 / n_c), scaled so that their mean over the rows is 1; the loss is the weighted sum over n rows."""
    counts = [10, 30, 60]
    weights = scale_class_weights("balanced", counts)
    expected = 100 / (3 * np.array(counts, dtype=np.float64))
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    assert np.dot(weights, counts) / 100 == pytest.approx(1.0)
    logs = _log_softmax(LOGITS.double().numpy())
    by_hand = -sum(expected[label] * logs[row, label] for row, label in enumerate(LABELS.tolist())) / 4
    loss = ClassificationLoss(3, weights)({"logits": LOGITS}, LABELS)
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)


def test_given_weights_keep_their_ratio():
    weights = scale_class_weights([1.0, 4.0], [30, 10])
    assert weights[1] / weights[0] == pytest.approx(4.0)
    assert (30 * weights[0] + 10 * weights[1]) / 40 == pytest.approx(1.0)
    assert scale_class_weights(None, [1, 2]) is None


def test_a_class_that_never_occurs_has_a_finite_weight():
    weights = scale_class_weights("balanced", [5, 5, 0])
    assert np.isfinite(weights).all()
    assert weights[:2] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "needs 2 numbers, one for each class, found 1"),
        ([0.0, 0.0], "weights are 0 or more"),
        ([-1.0, 2.0], "0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ConfigError, match=rf"training\.class_weights: .*{message}"):
        scale_class_weights(weights, [5, 5])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_equals_torchs(smoothing):
    expected = functional.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    assert ClassificationLoss(3, None, smoothing)({"logits": LOGITS}, LABELS).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("sizes", [(4,), (1, 3), (2, 2), (1, 1, 1, 1)])
def test_the_parts_of_a_step_sum_to_the_whole(sizes):
    loss = ClassificationLoss(3, [0.5, 1.0, 1.5], 0.1)
    whole = loss({"logits": LOGITS}, LABELS)
    start, total = 0, 0.0
    for size in sizes:
        rows = slice(start, start + size)
        total += loss({"logits": LOGITS[rows]}, LABELS[rows], num_items_in_batch=torch.tensor(4)).item()
        start += size
    assert total == pytest.approx(whole.item(), abs=1e-6)


def test_regression_is_the_mean_squared_error_also_of_one_row():
    loss = ClassificationLoss(1)
    values, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0])
    assert loss({"logits": values}, labels).item() == pytest.approx((1 + 4) / 2)
    assert loss({"logits": values[:1]}, labels[:1]).item() == pytest.approx(1.0)
    assert loss((values,), labels).item() == pytest.approx(2.5)


def test_half_precision_logits_are_summed_in_float32():
    loss = ClassificationLoss(3)({"logits": LOGITS.bfloat16()}, LABELS)
    assert loss.dtype == torch.float32
