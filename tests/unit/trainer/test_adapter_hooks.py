"""AdaLoRA in both trainers: its penalty is minimised, ranks are reallocated, and a resumed run is exact."""

from __future__ import annotations

import pytest

ADALORA = {"peft": {"method": "adalora", "init_r": 4, "target_r": 2}}


def _penalty_by_hand(model, weight):
    import torch

    norms = []
    for name, part in model.named_parameters():
        if "lora_A" in name:
            norms.append(float(torch.sqrt(((part @ part.T - torch.eye(part.shape[0])) ** 2).sum())))
        elif "lora_B" in name:
            norms.append(float(torch.sqrt(((part.T @ part - torch.eye(part.shape[1])) ** 2).sum())))
    return weight * sum(norms) / len(norms)


def _losses(prepared, is_causal):
    """Return the training loss and the evaluation loss of one batch."""
    trainer = prepared.trainer
    batch = next(iter(trainer.get_train_dataloader()))
    found = []
    for training in (True, False):
        trainer.model.train(training)
        inputs = dict(batch)
        count = (inputs["labels"][:, 1:] != -100).sum() if is_causal else len(inputs["labels"])
        trainer.current_gradient_accumulation_steps = 1
        found.append(trainer.compute_loss(trainer.model, inputs, num_items_in_batch=count).item())
    return found


@pytest.mark.parametrize("kind", ["classifier", "language model"])
def test_the_penalty_is_only_in_the_training_loss(kind, prepare_run, make_sft):
    losses, causal = {}, kind == "language model"
    for weight in (0, 0.5, 50):
        keys = {"peft": {**ADALORA["peft"], "orth_reg_weight": weight, "lora_dropout": 0.0}}
        prepared = prepare_run(config=make_sft(**keys)) if causal else prepare_run("llama", **keys)
        losses[weight] = _losses(prepared, causal)
        by_hand = _penalty_by_hand(prepared.model, weight)
        assert losses[weight][0] - losses[0][0] == pytest.approx(by_hand, rel=1e-4)
        assert losses[weight][1] == pytest.approx(losses[0][1], rel=1e-6), "the evaluation loss is the task's"
    assert losses[0][0] < losses[0.5][0] < losses[50][0]


@pytest.mark.parametrize("kind", ["classifier", "language model"])
def test_accumulated_batches_count_the_penalty_once(kind, prepare_run, make_sft):
    trained = []
    for batch, accumulated in ((8, 1), (2, 4)):
        keys = {
            "peft": {**ADALORA["peft"], "orth_reg_weight": 5.0},
            "training__per_device_train_batch_size": batch,
            "training__gradient_accumulation_steps": accumulated,
            "training__max_steps": 2,
            "training__train_sampling_strategy": "random",
            "training__logging_steps": 1,
        }
        prepared = prepare_run(config=make_sft(**keys)) if kind == "language model" else prepare_run("llama", **keys)
        prepared.trainer.train()
        logs = [log for log in prepared.trainer.state.log_history if "loss" in log]
        assert all(log["orthogonal_penalty"] > 1 for log in logs)
        trained.append([(log["loss"], log["orthogonal_penalty"]) for log in logs])
    assert trained[0] == [pytest.approx(pair, rel=1e-4) for pair in trained[1]]


def test_the_trial_batch_is_not_in_the_logged_penalty(prepare_run):
    logged = []
    for tried in (False, True):
        keys = {"training__max_steps": 2, "training__logging_steps": 2, "training__try_longest_batch": tried}
        prepared = prepare_run("llama", peft={**ADALORA["peft"], "orth_reg_weight": 5.0}, **keys)
        prepared.trainer.train()
        logged.append([log["orthogonal_penalty"] for log in prepared.trainer.state.log_history if "loss" in log])
    assert logged[0] == logged[1]
    assert len(logged[0]) == 1


def _ranks(model):
    return {name: int((part != 0).sum()) for name, part in model.named_parameters() if "lora_E" in name}


def test_ranks_are_pruned_by_the_schedule_and_saved(prepare_run, tmp_path):
    import torch

    keys = {"training__max_steps": 10, "training__save_strategy": "no", "training__eval_strategy": "no"}
    prepared = prepare_run("llama", **ADALORA, **keys)
    config = prepared.model.active_peft_config
    assert (config.total_step, config.tinit, config.tfinal, config.deltaT) == (10, 1, 3, 1)
    prepared.trainer.train()
    ranks = _ranks(prepared.model)
    assert sum(ranks.values()) == 2 * len(ranks), "target_r on average"
    assert sum(map(sum, config.rank_pattern.values())) == 2 * len(ranks)

    from utils.adapters.adapter import load_adapter

    batch = prepared.tokenizer(["good w1 w2", "bad"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = prepared.model.eval()(**batch).logits
    load_adapter("adalora").save(prepared.model, tmp_path / "saved")
    loaded = load_adapter("adalora").load(tmp_path / "saved", lambda _: _base(prepared))
    with torch.no_grad():
        again = loaded.eval()(**batch, labels=torch.tensor([0, 1]))
        merged = load_adapter("adalora").merge(loaded)(**batch).logits
    assert (again.logits - expected).abs().max() < 1e-6
    assert (merged - expected).abs().max() < 1e-5
    assert again.loss == pytest.approx(torch.nn.functional.cross_entropy(again.logits, torch.tensor([0, 1])).item())


def _base(prepared):
    from utils.modeling.base_model import load_base_model

    head = prepared.task.describe_head(prepared.data)
    return load_base_model(prepared.config.model, prepared.tokenizer, head, 42)


def test_a_checkpoint_before_the_ranks_are_final_holds_every_rank(prepare_run, tmp_path):
    """Between allocations a pruned rank can grow again, so a checkpoint without it would be another model."""
    import torch

    from utils.adapters.adapter import load_adapter

    peft = {**ADALORA["peft"], "tinit": 0, "tfinal": 1, "deltaT": 3}
    keys = {"training__max_steps": 12, "training__save_steps": 5, "training__save_strategy": "steps"}
    keys["training__save_total_limit"] = 9
    prepared = prepare_run("llama", peft=peft, training__eval_strategy="no", **keys)
    seen = {}

    from transformers import TrainerCallback

    class Look(TrainerCallback):
        def on_save(self, args, state, control, model=None, **kwargs):
            with torch.no_grad():
                seen[state.global_step] = model.eval()(**batch).logits
            model.train()

    batch = prepared.tokenizer(["good w1 w2", "bad"], padding=True, return_tensors="pt")
    prepared.trainer.add_callback(Look())
    prepared.trainer.train()
    for step in (5, 10):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        loaded = load_adapter("adalora").load(folder, lambda _: _base(prepared))
        with torch.no_grad():
            assert (loaded.eval()(**batch).logits - seen[step]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("peft", "at"),
    [
        ({"method": "adalora", "init_r": 4, "target_r": 2}, 3),
        ({"method": "adalora", "init_r": 4, "target_r": 2}, 8),
        ({"method": "p-tuning", "num_virtual_tokens": 4}, 3),
        ({"method": "prefix-tuning", "num_virtual_tokens": 4, "prefix_projection": True}, 3),
        pytest.param({"method": "prompt-tuning", "num_virtual_tokens": 4}, 3, marks=pytest.mark.slow),
    ],
    ids=["adalora", "adalora, ranks final", "p-tuning", "prefix-tuning", "prompt-tuning"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(prepare_run, tmp_path, peft, at):
    import torch

    keys = {"training__max_steps": 10, "training__save_steps": at, "training__eval_strategy": "no", "peft": peft}
    keys |= {"training__save_strategy": "steps", "training__save_total_limit": 5}
    whole = prepare_run("llama", training__output_dir=str(tmp_path / "whole"), **keys)
    whole.trainer.train()
    rest = prepare_run("llama", training__output_dir=str(tmp_path / "rest"), **keys)
    rest.trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{at}"))
    one, other = (dict(each.model.named_parameters()) for each in (whole, rest))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["adalora", "p-tuning"])
def test_the_best_checkpoint_is_restored_exactly(prepare_run, tmp_path, method):
    """peft's file holds the prompts made by p-tuning's network; loaded into the network, they would change."""
    import torch
    from transformers import TrainerCallback

    keys = {"training__max_steps": 6, "training__save_steps": 2, "training__eval_steps": 2}
    keys |= {"training__save_strategy": "steps", "training__eval_strategy": "steps", "training__save_total_limit": 9}
    prepared = prepare_run("llama", peft={"method": method}, **keys)
    trainer, seen = prepared.trainer, {}

    class Look(TrainerCallback):
        def on_save(self, args, state, control, model=None, **kwargs):
            seen[state.global_step] = {name: part.clone() for name, part in _trained(model).items()}

    trainer.add_callback(Look())
    trainer.train()
    best = trainer.state.best_global_step
    assert all(torch.equal(part, seen[best][name]) for name, part in _trained(prepared.model).items())
    for step in (2, 6):
        trainer.state.best_model_checkpoint = str(tmp_path / "run" / f"checkpoint-{step}")
        trainer._load_best_model()
        assert all(torch.equal(part, seen[step][name]) for name, part in _trained(prepared.model).items())
    assert any(not torch.equal(part, seen[2][name]) for name, part in seen[6].items())


def _trained(model):
    return {name: part.detach() for name, part in model.named_parameters() if part.requires_grad}


def test_a_schedule_without_an_allocation_phase_is_refused():
    from utils.adapters.adalora import Config
    from utils.core.errors import ConfigError

    assert Config().schedule(1000) == {"total_step": 1000, "tinit": 100, "tfinal": 300, "deltaT": 2}
    assert Config().schedule(1) == {"total_step": 1, "tinit": 0, "tfinal": 0, "deltaT": 1}
    with pytest.raises(ConfigError, match=r"tinit \(60\) has to end before tfinal \(50\) begins in a run of 100"):
        Config(tinit=60, tfinal=50).schedule(100)
    assert "below init_r (4), found 4" in Config(init_r=4, target_r=4).find_conflicts()["target_r"]
