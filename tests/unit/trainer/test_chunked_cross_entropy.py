"""The output layer at trained positions only: the same loss and gradients as full logits, for every kind of head."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CohereConfig, Gemma2Config, GPT2Config, LlamaConfig
from transformers.models.cohere.modeling_cohere import CohereForCausalLM
from transformers.models.gemma2.modeling_gemma2 import Gemma2ForCausalLM
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from utils.trainer import chunked_cross_entropy
from utils.trainer.chunked_cross_entropy import ChunkedCrossEntropy, LossSpec
from utils.trainer.trained_head import install_trained_head

_SHAPE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _llama():
    return LlamaForCausalLM(LlamaConfig(**_SHAPE, **_HEADS))


def _tied():
    return LlamaForCausalLM(LlamaConfig(**_SHAPE, **_HEADS, tie_word_embeddings=True))


def _cohere():
    return CohereForCausalLM(CohereConfig(**_SHAPE, **_HEADS, logit_scale=0.3))


def _gemma2():
    return Gemma2ForCausalLM(Gemma2Config(**_SHAPE, **_HEADS, final_logit_softcapping=0.05))


def _gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4))


def _adapted_head():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    return get_peft_model(_llama(), config)


def _whole_head():
    from peft import LoraConfig, get_peft_model

    return get_peft_model(_llama(), LoraConfig(task_type="CAUSAL_LM", modules_to_save=["lm_head"]))


KINDS = {
    each.__name__.strip("_"): each for each in (_llama, _tied, _cohere, _gemma2, _gpt2, _adapted_head, _whole_head)
}


def _without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def _batch():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 97, (3, 20), generator=generator)
    labels = ids.clone()
    labels[0, :12] = labels[1, :4] = labels[2, :] = -100
    labels[2, 5:9] = ids[2, 5:9]
    return ids, labels


def _full_logits_loss(model, ids, labels, smoothing=0.0, by_probability=False):
    logits = model(input_ids=ids).logits[:, :-1].double()
    kept = labels[:, 1:] != -100
    log_probs = logits.log_softmax(-1)[kept]
    losses = -log_probs.gather(-1, labels[:, 1:][kept][:, None]).squeeze(-1)
    weights = torch.exp(-losses.detach()) if by_probability else 1.0
    smoothed = (1 - smoothing) * losses - smoothing * log_probs.mean(-1)
    return (smoothed * weights).sum(), kept.sum(), (log_probs.argmax(-1) == labels[:, 1:][kept]).sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weigh_by_probability": True}], ids=str)
def test_loss_and_gradients_equal_those_of_full_logits(kind, options, monkeypatch, caplog):
    torch.manual_seed(0)
    model = _without_dropout(KINDS[kind]()).train()
    expected = copy.deepcopy(model)
    monkeypatch.setattr(chunked_cross_entropy, "CPU_LOGITS", 97 * 5)  # several chunks
    install_trained_head(model, **options)
    ids, labels = _batch()
    output = model(input_ids=ids, labels=labels, trained_positions=True)
    loss, count, right = _full_logits_loss(
        expected, ids, labels, options.get("label_smoothing", 0.0), options.get("weigh_by_probability", False)
    )
    assert torch.isclose(output.loss.double(), loss, rtol=1e-5)
    assert (output.num_targets, output.num_right) == (count, right)
    (output.loss / count).backward()
    (loss / count).backward()
    pairs = list(zip(model.parameters(), expected.parameters(), strict=True))
    assert any(one.grad is not None and one.grad.abs().sum() > 0 for one, _ in pairs)
    for one, other in pairs:
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.allclose(one.grad, other.grad, atol=1e-6)
    assert "in its own way" not in caplog.text


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"weigh_by_probability": True}], ids=str)
def test_evaluation_uses_plain_cross_entropy_for_any_training_loss(options):
    torch.manual_seed(0)
    model = _llama()
    expected = copy.deepcopy(model).eval()
    install_trained_head(model, **options)
    ids, labels = _batch()
    output = model.eval()(input_ids=ids, labels=labels, trained_positions=True)
    assert torch.isclose(output.loss.double(), _full_logits_loss(expected, ids, labels)[0], rtol=1e-5)


def test_an_unknown_output_layer_falls_back_to_full_logits(caplog):
    class Doubling(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 2
            return output

    torch.manual_seed(0)
    model = Doubling(LlamaConfig(**_SHAPE, **_HEADS)).eval()
    expected = copy.deepcopy(model)
    install_trained_head(model)
    assert "computes logits from hidden states in its own way" in caplog.text
    ids, labels = _batch()
    output = model(input_ids=ids, labels=labels, trained_positions=True)
    assert torch.isclose(output.loss.double(), _full_logits_loss(expected, ids, labels)[0], rtol=1e-5)


def test_switched_off_the_model_is_unchanged():
    model = _llama().eval()
    ids, labels = _batch()
    before = model(input_ids=ids, labels=labels)
    install_trained_head(model)
    after = model(input_ids=ids, labels=labels)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.loss, after.loss)
    assert model.generate(ids[:1], max_new_tokens=3, do_sample=False).shape == (1, 23)


def test_a_batch_without_trained_positions_gives_a_differentiable_zero():
    model = _llama()
    install_trained_head(model)
    ids, labels = _batch()
    output = model(input_ids=ids, labels=torch.full_like(labels, -100), trained_positions=True)
    output.loss.backward()
    assert output.loss == 0
    assert output.num_targets == 0


def test_gradients_pass_gradcheck():
    torch.manual_seed(0)
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 6, 3, 3, 1])
    spec = LossSpec(scale=0.7, softcap=3.0, label_smoothing=0.1)

    def plain(h, w, b):
        logits = 3.0 * torch.tanh(0.7 * (h @ w.t() + b) / 3.0)
        return functional.cross_entropy(logits, targets, label_smoothing=0.1, reduction="sum")

    ours = ChunkedCrossEntropy.apply(hidden, weight, bias, targets, spec)[0]
    theirs = plain(hidden, weight, bias)
    assert torch.isclose(ours.double(), theirs, rtol=1e-6)
    for one, other in zip(
        torch.autograd.grad(ours, (hidden, weight, bias)),
        torch.autograd.grad(theirs, (hidden, weight, bias)),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_error_is_within_its_precision(autocast):
    torch.manual_seed(0)
    model = _llama().eval() if autocast else _llama().eval().to(torch.bfloat16)
    install_trained_head(model)
    ids, labels = _batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(input_ids=ids, labels=labels, trained_positions=True)
        loss, _, _ = _full_logits_loss(model, ids, labels)
    assert output.loss.dtype == torch.float32
    assert torch.isclose(output.loss.double(), loss, rtol=2e-2)


class _LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation creates."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = [each for each in (result if isinstance(result, tuple) else (result,)) if torch.is_tensor(each)]
        own = [each.numel() for each in made if each._base is None and not isinstance(each, torch.nn.Parameter)]
        self.numel = max([self.numel, *own])
        return result


@pytest.mark.parametrize("training", [False, True])
def test_no_tensor_is_larger_than_a_chunk_of_logits(training, monkeypatch):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**_SHAPE, "vocab_size": 20_000}, **_HEADS)).train(training)
    model.get_output_embeddings().requires_grad_(False)
    model.get_input_embeddings().requires_grad_(False)
    install_trained_head(model)
    monkeypatch.setattr(chunked_cross_entropy, "CPU_LOGITS", 20_000 * 4)
    ids = torch.randint(3, 20_000, (1, 200))
    with torch.set_grad_enabled(training), _LargestTensor() as largest:
        output = model(input_ids=ids, labels=ids, trained_positions=True)
        if training:
            output.loss.backward()
    weight = 20_000 * 32  # torch.linear copies nothing to transpose, but a view counts as its base
    assert largest.numel <= weight
    assert largest.numel < 199 * 20_000 / 4
