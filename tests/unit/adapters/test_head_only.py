"""The head-only baseline: the body stays unchanged; the whole head is trained and saved."""

from __future__ import annotations

import pytest

from utils.core.errors import ConfigError

HEADS = {
    "bert": {"classifier"},
    "distilbert": {"pre_classifier", "classifier"},
    "deberta_v2": {"pooler", "classifier"},
    "modernbert": {"head", "classifier"},
    "llama": {"score"},
}


@pytest.mark.parametrize("family", HEADS)
def test_only_the_head_is_trained(attach, train_a_few_steps, read_logits, tmp_path, family):
    import torch

    attached = attach(family, "head-only")
    trained = {name.split(".")[0] for name, p in attached.model.named_parameters() if p.requires_grad}
    assert trained == HEADS[family]
    before = {name: p.detach().clone() for name, p in attached.model.named_parameters()}
    train_a_few_steps(attached)
    for name, parameter in attached.model.named_parameters():
        assert torch.equal(before[name], parameter) != (name.split(".")[0] in HEADS[family]), name
    logits = read_logits(attached.model, attached.tokenizer)
    attached.plugin.save(attached.model, tmp_path)
    again = attached.plugin.load(tmp_path, attached.load_base)
    assert (read_logits(again, attached.tokenizer) - logits).abs().max() < 1e-6


def test_new_tokens_are_refused(attach):
    with pytest.raises(ConfigError, match=r"extra_special_tokens: cannot be used with peft\.method: head-only"):
        attach("bert", "head-only", model={"extra_special_tokens": ["<new>"]})


def test_a_task_without_a_new_head_is_refused(attach):
    from utils.adapters.adapter import AttachContext
    from utils.adapters.head_only import Config
    from utils.adapters.head_only import attach as attach_head

    with pytest.raises(ConfigError, match="needs a task with a new head"):
        attach_head(
            attach("llama", "none").model, Config(), AttachContext(task_type="CAUSAL_LM", has_new_head=False, seed=1)
        )
