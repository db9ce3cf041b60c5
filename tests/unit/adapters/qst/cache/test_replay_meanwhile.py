"""What happens while the backbone is skipped: generating, failing, saving, copying, switching adapters."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from tests.unit.adapters.qst.cache.steps import assert_equal, run_step
from utils.adapters.qst.cache import CacheSection
from utils.adapters.qst.cache.open_store import open_store


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_generation_and_evaluation_with_a_kv_cache_run_the_backbone(
    build_base, attach_side_network, start_replay, draw_batch, family
):
    adapted, batch = attach_side_network(build_base(family)), draw_batch("left")
    keys = {"max_new_tokens": 6, "do_sample": False, "num_beams": 2, "pad_token_id": 0, "eos_token_id": None}
    written = adapted.generate(**batch, **keys)
    with torch.no_grad():
        evaluated = adapted(**batch, use_cache=True)
    replay = start_replay(adapted)
    for _ in range(2):
        run_step(adapted, batch)
        adapted.eval()
        assert torch.equal(adapted.generate(**batch, **keys), written)
        with torch.no_grad():
            again = adapted(**batch, use_cache=True)
        assert torch.equal(again.logits, evaluated.logits)
        assert len(again.past_key_values.layers) == 6
    assert replay.counts.num_documents == 8


@pytest.mark.parametrize(("family", "task_type"), [("llama", "CAUSAL_LM"), ("bert", "SEQ_CLS")])
def test_evaluation_is_replayed_too(build_base, attach_side_network, start_replay, draw_batch, family, task_type):
    adapted, batch = attach_side_network(build_base(family, task_type)).eval(), draw_batch()
    real = batch["attention_mask"].bool() if task_type == "CAUSAL_LM" else slice(None)
    with torch.no_grad():
        expected = adapted(**batch).logits
        replay = start_replay(adapted)
        for _ in range(2):
            assert torch.equal(adapted(**batch).logits[real], expected[real])
    assert replay.counts.num_replayed == 4


def test_a_first_evaluation_does_not_read_rounded_states_of_an_earlier_run(
    build_base, attach_side_network, draw_batch, tmp_path
):
    model, batch = attach_side_network(build_base("bert", "SEQ_CLS")), draw_batch()
    section = CacheSection(where="disk", dtype="int8", dir=str(tmp_path))
    exact = model.eval()(**batch).logits
    for _ in range(2):
        replay = model.base_model.start_replay(partial(open_store, section, {}))
        assert torch.equal(model.eval()(**batch).logits, exact)
        run_step(model, batch)
    assert replay.counts.num_replayed == 4, "they are read in training"


@pytest.mark.parametrize(("family", "task_type"), [("llama", "CAUSAL_LM"), ("bert", "SEQ_CLS"), ("gpt2", "CAUSAL_LM")])
def test_requests_for_hidden_states_run_the_backbone(
    build_base, attach_side_network, start_replay, draw_batch, family, task_type
):
    adapted, batch = attach_side_network(build_base(family, task_type, attn_implementation="eager")), draw_batch()
    more = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        expected = adapted(**batch, **more)
        start_replay(adapted)
        for _ in range(2):
            adapted(**batch)
            found = adapted(**batch, **more)
            assert len(found.hidden_states) == len(expected.hidden_states)
            assert all(torch.equal(a, b) for a, b in zip(found.hidden_states, expected.hidden_states, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(found.attentions, expected.attentions, strict=True))
        adapted.config.output_hidden_states = True
        assert len(adapted.get_base_model()(**batch).hidden_states) == len(expected.hidden_states)


def test_unsupported_inputs_run_the_backbone(build_base, attach_side_network, start_replay, draw_batch):
    adapted, batch = attach_side_network(build_base("llama")).eval(), draw_batch(None)
    replay = start_replay(adapted)
    with torch.no_grad():
        expected = adapted(**batch).logits
        embeds = adapted.get_input_embeddings()(batch["input_ids"])
        assert torch.equal(adapted(inputs_embeds=embeds).logits, expected)
        assert torch.equal(adapted(batch["input_ids"]).logits, expected)
        holes = {**batch, "attention_mask": batch["attention_mask"].clone()}
        holes["attention_mask"][:, 3] = 0
        assert not torch.equal(adapted(**holes).logits, expected)
        causal = torch.full((9, 9), -1e9).triu(1)
        blind = causal.clone()
        blind[:, 0] = -1e9
        blind[0, 0] = 0
        one, other = (
            adapted(input_ids=batch["input_ids"], attention_mask=mask.expand(4, 1, 9, 9)).logits
            for mask in (causal, blind)
        )
        assert (one - expected).abs().max() < 1e-5
        assert not torch.allclose(one, other)
        with adapted.disable_adapter():
            base = adapted(**batch).logits
    assert torch.equal(base, build_base("llama")(**batch).logits)
    assert replay.counts.num_documents == 8
    assert replay.counts.num_replayed == 4


@pytest.mark.parametrize(("family", "task_type"), [("llama", "CAUSAL_LM"), ("bert", "SEQ_CLS")])
def test_a_failure_restores_the_layers(build_base, attach_side_network, start_replay, draw_batch, family, task_type):
    adapted, batch = attach_side_network(build_base(family, task_type)), draw_batch()
    modules = [id(part) for part in adapted.modules()]
    expected = run_step(adapted, batch)
    start_replay(adapted)
    run_step(adapted, batch)
    side = adapted.base_model.mix.qst_side["default"]

    for error in (RuntimeError, KeyboardInterrupt):

        def fail(*_, error=error):
            raise error("in the middle")

        handle = side.blocks[1].register_forward_pre_hook(fail)
        with pytest.raises(error, match="in the middle"):
            run_step(adapted, batch)
        handle.remove()
        if error is RuntimeError:
            assert [id(part) for part in adapted.modules()] == modules
        assert_equal(run_step(adapted, batch), expected)
        assert [id(part) for part in adapted.modules()] == modules


def test_saving_copying_and_unloading_during_replay(
    build_base, attach_side_network, start_replay, draw_batch, tmp_path
):
    adapted, batch = attach_side_network(build_base("bert", "SEQ_CLS")), draw_batch()
    names = list(adapted.state_dict())
    adapted.save_pretrained(tmp_path / "before")
    replay = start_replay(adapted)
    expected = run_step(adapted, batch)
    run_step(adapted, batch)
    assert list(adapted.state_dict()) == names
    adapted.save_pretrained(tmp_path / "during")
    one, other = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("before", "during"))
    assert one == other
    copied = copy.deepcopy(adapted)
    assert list(copied.state_dict()) == names
    assert_equal(run_step(copied, batch), expected)
    assert_equal(run_step(adapted, batch), expected)
    plain = adapted.unload()
    assert replay.store.is_closed
    assert not [part for part in plain.modules() if part._forward_pre_hooks or part._forward_hooks]


def test_starting_again_closes_the_first_replay(build_base, attach_side_network, start_replay, draw_batch):
    adapted, batch = attach_side_network(build_base("llama")), draw_batch()
    first = start_replay(adapted)
    run_step(adapted, batch)
    second = start_replay(adapted)
    run_step(adapted, batch)
    assert first.store.is_closed
    assert second.counts.num_replayed == 0
    assert len(second.store.rows) == 4


def test_switching_to_an_incompatible_adapter_ends_the_replay_with_a_warning(
    build_base, attach_side_network, start_replay, draw_batch, caplog
):
    """Its side network may read states that are not stored."""
    from utils.adapters.qst import QSTConfig

    adapted, batch = attach_side_network(build_base("llama"), side_layers=[2]), draw_batch()
    replay = start_replay(adapted)
    run_step(adapted, batch)
    adapted.add_adapter("other", QSTConfig(task_type="CAUSAL_LM", reduction_factor=2, downsample_rank=4))
    assert "the backbone cache is closed" in caplog.text
    assert replay.store.is_closed
    adapted.set_adapter("other")
    plain = attach_side_network(build_base("llama"), scattered=False)
    kept = {name: each for name, each in adapted.state_dict().items() if ".default." not in name}
    plain.load_state_dict({name.replace(".other.", ".default."): each for name, each in kept.items()})
    assert torch.equal(run_step(adapted, batch)[1], run_step(plain, batch)[1])


def test_switched_adapters_share_the_stored_states(build_base, attach_side_network, scatter, start_replay, draw_batch):
    from utils.adapters.qst import QSTConfig

    adapted, batch = attach_side_network(build_base("llama")), draw_batch()
    adapted.add_adapter("other", QSTConfig(task_type="CAUSAL_LM", reduction_factor=4, side_layers=[1]))
    adapted.set_adapter("other")
    scatter(adapted)
    expected = run_step(adapted, batch)
    adapted.set_adapter("default")
    replay = start_replay(adapted)
    run_step(adapted, batch)
    adapted.set_adapter("other")
    assert_equal(run_step(adapted, batch), expected)
    assert replay.counts.num_replayed == 4
