"""Reward models: loss and gradients equal TRL's; rows, commands and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from tests.commands.in_process import command
from tests.unit.tasks.preference.conftest import VOCABULARY, draw_pairs
from tests.unit.tasks.preference.test_losses import ROWS, SHARED, STEPS, train
from utils.core.texts import RowError
from utils.data.dataset import load_dataset_plugin
from utils.data.preference import as_scored
from utils.planning.plan import plan_run
from utils.run_config import load_run_config
from utils.tasks.preference.batches import PreferenceCollator
from utils.tasks.reward.section import RewardSection
from utils.tasks.reward.trainer import RewardTrainer

ROOT = Path(__file__).parents[4]
PAIRS = ROOT / "examples/quickstart/preference"
QUESTION, ANSWER = "Dan has 8 eggs. He gets 15 more. How many?", "8 plus 15 is 23.\n#### 23"


def build_scorer() -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=64, pad_token_id=0, num_labels=1)  # fmt: skip
    lora = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    return get_peft_model(LlamaForSequenceClassification(config), lora)


@pytest.mark.parametrize(("margins", "center"), [(False, None), (True, 0.05)])
def test_twenty_steps_equal_trls(margins, center, tmp_path, load_tokenizer_of):
    from trl import RewardConfig
    from trl import RewardTrainer as Trl

    ours, theirs = draw_pairs(STEPS * ROWS)
    texts = {side: [p + a for p, a in zip(theirs["prompt_ids"][:], theirs[side][:], strict=True)]
             for side in ("chosen_ids", "rejected_ids")}  # fmt: skip
    theirs = Dataset.from_dict(texts)
    if margins:
        given = [0.25 * (row % 5) for row in range(len(ours))]
        ours, theirs = ours.add_column("margin", given), theirs.add_column("margin", given)
    keys = {**SHARED, "max_grad_norm": 100.0}
    tokenizer = load_tokenizer_of("llama")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)  # by which a model finds a text's last token
    arguments = RewardConfig(output_dir=str(tmp_path), **keys, bf16=False, gradient_checkpointing=False,
                             max_length=None, center_rewards_coefficient=center)  # fmt: skip
    trl = Trl(model=build_scorer(), args=arguments, train_dataset=theirs, processing_class=tokenizer)
    trainer = RewardTrainer(
        model=build_scorer(),
        section=RewardSection(center_rewards_coefficient=center),
        args=TrainingArguments(output_dir=str(tmp_path), **keys),
        train_dataset=ours,
        data_collator=PreferenceCollator(0),
    )
    expected, found = train(trl), train(trainer)
    assert len(found[0]) == STEPS
    for mine, other in zip(found, expected, strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)
    same = dict(trl.model.named_parameters())
    for name, weight in trainer.model.named_parameters():
        assert torch.allclose(weight, same[name], atol=1e-5), name
    names = {"accuracy", "margin", "mean_reward"}
    log, other = (each.state.log_history[0] for each in (trainer, trl))
    assert {name: log[name] for name in names} == pytest.approx({name: other[name] for name in names}, abs=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a reward model for a few steps."""
    folder = tmp_path_factory.mktemp("reward") / "run"
    command("train", "--config", ROOT / "configs/quickstart_reward.yaml", "training.max_steps=3",
            "dataset.max_train_samples=24", "dataset.max_eval_samples=20", "training.per_device_train_batch_size=8",
            "results.formats=[json]", f"training.output_dir={folder}")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def merged(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Merge it."""
    folder = tmp_path_factory.mktemp("merged") / "whole"
    command("merge_adapter", "--run", run, "--output", folder)
    return folder


def test_a_run_reports_pairwise_accuracy(run: Path, tmp_path: Path) -> None:
    record = json.loads((run / "results.json").read_text("utf-8"))
    metrics = record["metrics"]
    assert record["headline"] == "accuracy"
    assert 0 <= record["interval"]["accuracy"][0] <= metrics["accuracy"] <= record["interval"]["accuracy"][1] <= 1
    assert metrics["margin"] == pytest.approx(metrics["rewards/chosen"] - metrics["rewards/rejected"])
    assert record["reload_check"]["rows"] == 40
    seen = json.loads((run / "trainer_state.json").read_text("utf-8"))["num_input_tokens_seen"]
    assert plan_run(load_run_config(run / "run.yaml")).num_tokens == seen, "both sides are included in the plan"
    answer = command("evaluate_model", "--run", run, "--output_dir", tmp_path / "scores")
    again = answer["sets"]["validation"]
    assert again["metrics"] == pytest.approx({name: metrics[name] for name in again["metrics"]}, abs=1e-5)
    assert again["difference"] == 0
    rows = [json.loads(line) for line in (tmp_path / "scores/validation/predictions.jsonl").read_text().splitlines()]
    wins = [row["reward_chosen"] > row["reward_rejected"] for row in rows]
    assert sum(wins) / len(wins) == metrics["accuracy"]


def test_each_text_gets_a_reward_and_the_merged_model_agrees(run: Path, merged: Path, tmp_path: Path) -> None:
    pairs = [json.loads(line) for line in (PAIRS / "validation.jsonl").read_text("utf-8").splitlines()[:4]]
    rows = [*pairs, {"question": pairs[0]["question"], "answer": pairs[0]["rejected"]}, {"question": QUESTION}]
    source, target = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    answer = command("inference", "--run", run, "--input_file", source, "--output_file", target)
    found = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert (answer["rows"], answer["errors"]) == (6, 1)
    assert "question with an answer" in found[5]["error"]
    assert found[4]["reward"] == pytest.approx(found[0]["reward_rejected"], abs=1e-5)
    assert found[0]["reward_chosen"] != found[0]["reward_rejected"]
    given = ["--input_text", pairs[0]["question"], "--input_text", pairs[0]["chosen"]]
    again = command("inference", "--run", merged, *given)["answers"][0]
    assert again["reward"] == pytest.approx(found[0]["reward_chosen"], abs=1e-4)
    whole = f"Question: {pairs[0]['question']}\nAnswer: {pairs[0]['chosen']}"
    plain = command("inference", "--adapter", run / "final_model", "--input_text", whole)["answers"][0]
    assert "value" in plain, "given an unformatted text"
    source.write_text("\n".join(map(json.dumps, pairs)))
    words = ['dataset.prompt_template="Question: {question}\\nAnswer:"', "reward.max_length=256"]
    scored = command("evaluate_model", "--model", merged, "--set", source, "--output_dir", tmp_path / "of",
                     *words)["sets"]["rows"]  # fmt: skip
    chosen = [row["reward_chosen"] for row in found[:4]]
    assert scored["metrics"]["rewards/chosen"] == pytest.approx(sum(chosen) / 4, abs=1e-4)


def test_scoring_of_rows():
    plugin = load_dataset_plugin("custom")

    def read(row: dict[str, Any], trained: tuple[str, ...], conversational: bool | None = True) -> Any:
        spec = as_scored(plugin.describe_instructions(plugin.Config(path="rows.jsonl")), {}, conversational)
        return spec.resolve(spec, trained).read_row(row)

    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    for trained in (("prompt", "chosen", "rejected"), ("chosen", "rejected"), ("messages", "chosen", "rejected")):
        assert [turn["content"] for turn in read({"messages": turns}, trained).messages] == [QUESTION, ANSWER]
        assert read({"prompt": QUESTION, "answer": ANSWER}, trained).messages[-1]["content"] == ANSWER
    trained = ("prompt", "chosen", "rejected")
    plain = read({"prompt": QUESTION, "answer": ANSWER}, trained, conversational=False)
    assert (plain.prompt, plain.answer, plain.messages) == (QUESTION, ANSWER, ())
    with pytest.raises(RowError, match="not known whether a prompt is a user's turn"):
        read({"prompt": QUESTION, "answer": ANSWER}, trained, conversational=None)
    pair = read({"prompt": QUESTION, "chosen": ANSWER, "rejected": "24"}, ("prompt", "chosen", "rejected"))
    assert (pair.answer, pair.rejected.answer) == (ANSWER, "24")
    with pytest.raises(RowError, match="does not end with the assistant's turn"):
        read({"messages": turns[:1]}, ("messages", "chosen", "rejected"))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"task_type": "CAUSAL_LM"}, r"reward: is for task_type: SEQ_CLS"),
        ({"dataset": {"name": "glue", "subset": "mrpc", "path": None}}, r"glue is for task_type: SEQ_CLS, not reward:"),
        ({"training": {"metric_for_best_model": "acuracy"}}, "no result called acuracy; did you mean accuracy"),
        ({"reward": {"beta": 0.1}}, "reward.beta"),
        ({"reward": {"center_rewards_coefficient": -1}}, "center_rewards_coefficient: -1"),
        ({"peft": {"method": "adaption_prompt"}}, "adaption_prompt not with task_type: SEQ_CLS"),
    ],
)
def test_mistakes_are_reported_before_loading(sections, said, write_run):
    from utils.core.errors import ConfigError

    given = {"task_type": "SEQ_CLS", "dataset": {"name": "custom", "path": str(PAIRS), "subset": None}, "reward": {}}
    file = write_run(**{**given, **sections})
    with pytest.raises(ConfigError, match=said):
        load_run_config(file)


def test_a_merged_reward_model_is_a_grpo_reward(run: Path, merged: Path, tmp_path: Path) -> None:
    """Its rewards in GRPO equal those that inference.py gives for the same answers."""
    from utils.config.sections.dataset import InstructionSection
    from utils.data.dataset import Example
    from utils.generation.judging import describe_asked, load_judge

    plugin = load_dataset_plugin("custom")
    rows: InstructionSection = plugin.Config(path=str(PAIRS), prompt_template="Question: {question}\nAnswer:")
    asked = describe_asked(Example(prompt=f"Question: {QUESTION}\nAnswer:", question=QUESTION))
    found = load_judge(str(merged), rows, "cpu")([asked, asked], [f" {ANSWER}", " 24"])
    for reward, text in zip(found, (ANSWER, "24"), strict=True):
        given = ["--input_text", QUESTION, "--input_text", text]
        assert command("inference", "--run", run, *given)["answers"][0]["reward"] == pytest.approx(reward, abs=1e-4)
    learnt = tmp_path / "learnt"
    command("train", "--config", ROOT / "configs/quickstart_grpo.yaml", "training.max_steps=1", "grpo.rewards={}",
            f"grpo.reward_models={{{merged}: 2.0}}", "dataset.max_train_samples=8", "grpo.max_completion_length=8",
            "training.per_device_train_batch_size=8", "grpo.num_generations=4", "evaluation.at_end=false",
            "evaluation.steps=null", "evaluation.at_start=false", "training.logging_steps=1", "grpo.temperature=2",
            "results.formats=[json]", f"training.output_dir={learnt}")  # fmt: skip
    log = json.loads((learnt / "trainer_state.json").read_text("utf-8"))["log_history"][0]
    assert log["reward"] != 0
    assert log["frac_reward_zero_std"] < 1


def test_settings_without_effect_are_warned_about(write_run):
    file = write_run(task_type="SEQ_CLS", dataset={"name": "custom", "path": str(PAIRS), "subset": None},
                     reward={}, training={"label_smoothing_factor": 0.1, "class_weights": "balanced"})  # fmt: skip
    config = load_run_config(file)
    assert (config.task, config.arguments["learning_rate"]) == ("reward", 1e-4)
    said = "\n".join(config.warnings)
    assert "training.class_weights: has no effect; rewards have no classes" in said
    assert "training.label_smoothing_factor: has no effect; the loss is that of reward:" in said
