"""A mixture of experts: methods incompatible with its experts or its balancing loss refuse or disable them."""

from __future__ import annotations

import pytest

from utils.core.errors import ConfigError, ModelError


@pytest.fixture
def base(tmp_path, tiny_base):
    """Save a tiny mixture of experts with a tokenizer of bytes."""
    import torch
    from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base("qwen2"))
    shape = {"hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64,
             "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1}  # fmt: skip
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=len(tokenizer), output_router_logits=True, **shape))
    folder = tmp_path / "mixture"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make(base, make_sft, make_set):
    """Return a function that makes a run on the mixture."""

    def run(peft, **overrides):
        rows = [{"prompt": f"a{n}", "completion": f" b{n}"} for n in range(8)]
        return make_sft(
            model__name_or_path=str(base), dataset={"name": "custom", "path": str(make_set(train=rows))},
            peft=peft, training__max_steps=2, **{"sft": {"max_length": 32}, **overrides},
        )  # fmt: skip

    return run


def test_a_prefix_disables_the_balancing_loss(make, prepare_run, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from utils.adapters.adapter import load_adapter

    run = prepare_run(config=make({"method": "prefix-tuning", "num_virtual_tokens": 3}))
    run.trainer.train()
    losses = [log["loss"] for log in run.trainer.state.log_history if "loss" in log]
    assert len(losses) == 2
    room = load_adapter("prefix-tuning")
    room.save(run.trainer.model, tmp_path)
    plain = run.config.model.name_or_path
    loaded = room.load(tmp_path, lambda _: AutoModelForCausalLM.from_pretrained(plain))
    row = run.tokenizer("a1 b1", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**row).logits, run.trainer.model.eval()(**row).logits)


def test_a_prefix_with_an_explicit_balancing_loss_is_refused(make):
    with pytest.raises(ConfigError, match=r"sft\.router_aux_loss_coef: not with peft\.method: prefix-tuning"):
        make({"method": "prefix-tuning"}, sft={"max_length": 32, "router_aux_loss_coef": 0.01})


@pytest.mark.parametrize("keys", [{"use_dora": True}, {"lora_dropout": 0.1}])
def test_methods_unsupported_by_experts_are_refused(keys, make, prepare_run):
    (key,) = keys
    with pytest.raises(ModelError, match=rf"peft\.{key}: not on the experts of this model \(qwen3_moe\)"):
        prepare_run(config=make({"method": "lora", **keys}))
    run = prepare_run(config=make({"method": "lora", "target_modules": ["q_proj"], **keys}))
    assert run.trainer.aux_loss_enabled
