"""One training step, and a bit-for-bit comparison of two."""

from __future__ import annotations

import torch


def run_step(model, batch):
    """Return one training step's loss, logits at real tokens, and gradients."""
    labels, real = torch.tensor([0, 1, 0, 1]), slice(None)
    if "SequenceClassification" not in type(model.get_base_model()).__name__:
        real = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        labels = batch["input_ids"].masked_fill(~real, -100)
        labels.scatter_(1, real.int().argmax(1, keepdim=True), -100)  # with left padding the first token is padding
    model.train()
    model.zero_grad()
    torch.manual_seed(5)
    output = model(**batch, labels=labels[: len(batch["input_ids"])])
    output.loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return output.loss.detach(), output.logits.detach()[real], grads


def assert_equal(one, other):
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert one[2].keys() == other[2].keys()
    assert all(torch.equal(grad, other[2][name]) for name, grad in one[2].items())
