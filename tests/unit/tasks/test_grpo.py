"""GRPO: advantages, losses and gradients equal TRL's for the same answers; groups stay together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.tasks.preference.conftest import VOCABULARY, build_model, compute_gradients  # noqa: F401  a fixture
from utils.tasks.grpo.groups import GroupOrder, compute_advantages
from utils.tasks.grpo.losses import AnswerBatch, compute_losses
from utils.tasks.grpo.section import GrpoSection
from utils.tasks.preference.batches import PreferenceCollator
from utils.trainer.trained_head import install_trained_head
from utils.trainer.varlen_attention import require_separate_documents

ROWS, GROUP, LENGTH = 8, 4, 12


def draw_answers() -> tuple[list[list[int]], list[list[int]], torch.Tensor]:
    draw = torch.Generator().manual_seed(5)

    def ids(most: int) -> list[int]:
        length = int(torch.randint(2, most, (1,), generator=draw))
        return torch.randint(3, VOCABULARY, (length,), generator=draw).tolist()

    prompts = [prompt for _ in range(ROWS // GROUP) for prompt in [ids(9)] * GROUP]
    return prompts, [ids(LENGTH) for _ in range(ROWS)], torch.rand(ROWS, generator=draw)


def pad(rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    gaps = [[0] * (width - len(row)) for row in rows]
    ids = [gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)]
    masks = [[0] * len(gap) + [1] * len(row) if left else [1] * len(row) + [0] * len(gap)
             for row, gap in zip(rows, gaps, strict=True)]  # fmt: skip
    return torch.tensor(ids), torch.tensor(masks)


def compute_theirs(model: Any, section: GrpoSection, old: list[torch.Tensor], tmp_path: Path, tokenizer: Any) -> Any:
    """Call TRL's own loss on given answers."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    prompts, answers, rewards = draw_answers()
    keys = ("beta", "loss_type", "epsilon", "epsilon_high", "delta", "importance_sampling_level", "temperature")
    arguments = GRPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        per_device_train_batch_size=ROWS, num_generations=GROUP, max_completion_length=LENGTH,
        **{key: getattr(section, key) for key in keys},
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict({"prompt": ["a"] * ROWS}),
        processing_class=tokenizer, reward_funcs=lambda completions, **_: [0.0] * len(completions),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    (prompt_ids, prompt_mask), (ids, mask) = pad(prompts, True), pad(answers, False)
    inputs = {
        "prompt_ids": prompt_ids, "prompt_mask": prompt_mask, "completion_ids": ids, "completion_mask": mask,
        "advantages": compute_advantages(rewards, GROUP, "group"), "num_items_in_batch": mask.sum(),
        "old_per_token_logps": torch.nn.utils.rnn.pad_sequence(old, batch_first=True),
    }  # fmt: skip
    if section.beta:
        unwrapped = trainer.accelerator.unwrap_model(trainer.model)
        with torch.no_grad(), unwrapped.disable_adapter():
            inputs["ref_per_token_logps"] = trainer._get_per_token_logps_and_entropies(
                trainer.model, torch.cat([prompt_ids, ids], 1), torch.cat([prompt_mask, mask], 1), ids.size(1)
            )[0]
    trainer.model.train()
    return trainer.compute_loss(trainer.model, inputs)


@pytest.mark.parametrize(
    "keys",
    [
        {"loss_type": "dapo", "beta": 0.1},
        {"loss_type": "dapo", "temperature": 0.7},
        *({"loss_type": name} for name in ("grpo", "bnpo", "dr_grpo", "sapo")),
        {"loss_type": "cispo", "epsilon_high": 1.1},
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon_high": 0.3},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "delta": 1.5},
    ],
    ids=lambda keys: "-".join(map(str, keys.values())),
)
def test_losses_and_gradients_equal_trls(keys, build_model, tmp_path, load_tokenizer_of):  # noqa: F811  build_model is a fixture
    section = GrpoSection(rewards={"em_strict": 1.0}, max_completion_length=LENGTH, **keys)
    prompts, answers, rewards = draw_answers()
    texts = [{"input_ids": p + a, "labels": [-100] * len(p) + a} for p, a in zip(prompts, answers, strict=True)]
    model = build_model()
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    install_trained_head(model, temperature=section.temperature)
    model.train()
    found = []
    for padding_free in (False, True):
        if padding_free:
            require_separate_documents(model)
        batch = PreferenceCollator(0, padding_free)(texts)
        counts = batch.pop("answer_tokens")
        score = lambda: model(**batch, trained_positions=True, each=True).log_probs  # noqa: B023  called within this iteration
        with torch.no_grad():
            noise = torch.linspace(-0.6, 0.6, int(counts.sum()))
            old = score() + noise
            with model.disable_adapter():
                reference = score() if section.beta else None
        answered = AnswerBatch(score(), old, reference, counts, compute_advantages(rewards, GROUP, "group"),
                            torch.ones(ROWS), counts.sum(), ROWS)  # fmt: skip
        found.append((compute_losses(answered, section)[0].mean(), list(old.split(counts.tolist()))))
        found[-1] = (found[-1][0].item(), compute_gradients(model, found[-1][0]), found[-1][1])
    model = model.cpu()
    model.get_base_model().config._attn_implementation = "sdpa"
    loss = compute_theirs(model, section, found[0][2], tmp_path, load_tokenizer_of("llama"))
    theirs = compute_gradients(model, loss)
    for mine, grads, _ in found:
        assert mine == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
        assert float((grads - theirs).norm()) < 2e-5 * float(theirs.norm())


def test_advantages_are_relative_to_the_group():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    assert compute_advantages(rewards, 4, "none").tolist() == [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]
    assert compute_advantages(rewards, 4, "group")[:2].tolist() == pytest.approx([1.49970, -0.49990], abs=1e-4)
    assert compute_advantages(rewards, 4, "batch")[0].item() == pytest.approx(0.75 / (rewards.std().item() + 1e-4))


def test_a_step_holds_complete_groups_repeated_as_configured():
    order = GroupOrder(num_prompts=5, num_generations=2, per_step=2, num_iterations=2, seed=1)
    rows = list(order)
    assert len(rows) == len(order) == 16
    assert rows[:4] == rows[4:8], "the same answers twice"
    assert [row // 2 for row in rows[:4:2]] == [row // 2 for row in rows[1:4:2]]
    assert list(order) == rows
    order.set_epoch(1)
    assert list(order) != rows


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"grpo": {}}, "grpo.rewards: names no metric"),
        ({"grpo": {"reward_models": {"./no_such": 1.0}}}, "no_such: holds no model; merge_adapter.py"),
        (
            {"grpo": {"rewards": {"em_strict": 1.0}, "server": "http://127.0.0.1:9/v1"}, "peft": {"method": "ia3"}},
            "grpo.server: a server cannot load what ia3 saves",
        ),
        ({"grpo": {"rewards": {"em_strikt": 1.0}}}, "no metric of generated texts called em_strikt"),
        ({"grpo": {"rewards": {"em_strict": 1.0}, "num_generations": 3}}, "3 does not divide the 8 answers"),
        ({"grpo": {"rewards": {"em_strict": 1.0}, "beta": 0.1}, "peft": {"method": "none"}}, "needs an adapter"),
        ({"grpo": {"rewards": {"em_strict": 1.0}}, "peft": {"method": "qst", "cache": "ram"}}, "not with grpo"),
        ({"grpo": {"rewards": {"em_strict": 1.0}}, "dpo": {}}, "asks for another task"),
        ({"grpo": {"rewards": {"em_strict": 1.0}}, "peft": {"method": "qst"}}, None),
        ({"dpo": {"loss_type": "exo_pair"}}, "must be above 0 for exo_pair"),
        (
            {"dpo": {"loss_type": ["sigmoid", "apo_zero"], "f_divergence_type": "forward_kl"}},
            "not defined for apo_zero",
        ),
        ({"dpo": {"loss_type": ["sigmoid"], "loss_weights": [1.0, 2.0]}}, "2 weights for 1 losses"),
        ({"kto": {"beta": 0}}, "use a number above 0"),
    ],
)
def test_mistakes_are_reported_before_loading(sections, said, write_run):
    from utils.core.errors import ConfigError
    from utils.run_config import load_run_config

    file = write_run(task_type="CAUSAL_LM", dataset={"name": "gsm8k", "subset": None}, **sections)
    if said is None:
        assert load_run_config(file).task == "grpo"
        return
    with pytest.raises(ConfigError, match=said):
        load_run_config(file)
