"""The `grpo:` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from utils.config.section import Section


class GrpoSection(Section):
    """The `grpo:` section, spelt as TRL spells its keys."""

    rewards: dict[str, float] = {}
    """Metrics of generated texts with their weights, `{em_strict: 1.0}`: an answer's reward is the weighted sum of its
    scores. One of your own is a metric in a folder that `extensions:` names."""
    reward_models: dict[str, float] = {}
    """Trained reward models with their weights, added to that sum: a hub id, or a folder that merge_adapter.py wrote of
    a `reward:` run. Each is in memory beside the model."""
    max_prompt_length: int = Field(512, ge=8)
    """Tokens that a prompt may have; longer ones lose their middle, or what dataset.truncation says."""
    max_completion_length: int = Field(256, ge=1)
    """Tokens that an answer may have."""
    server: str | None = None
    """A vLLM server of the run's base, such as `http://127.0.0.1:8000/v1`, that writes the answers; each time it is
    handed the adapter as it is then. Log-probabilities are computed here. null: the model itself writes."""
    num_generations: int = Field(8, ge=2)
    """Answers to each prompt, which are compared with each other. The rows of an optimizer step
    (per_device_train_batch_size * gradient_accumulation_steps * processes) are answers, a multiple of this."""
    num_iterations: int = Field(1, ge=1)
    """Optimizer steps that are made with the same answers; from the second on, ratios are clipped."""
    temperature: float = Field(1.0, gt=0)
    """Of the answers; their log-probabilities are those at this temperature."""
    top_p: float | None = Field(None, gt=0, le=1)
    """As generation.top_p, of the answers that are trained on."""
    top_k: int | None = Field(None, ge=1)
    """As generation.top_k, of the answers that are trained on."""
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo"] = "dapo"
    """How losses of tokens make one, as TRL names it. dapo: a mean over the tokens of the step; grpo: over those of
    each answer, then over answers; bnpo: over those of a batch; dr_grpo: their sum by max_completion_length."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What rewards, less their group's mean, are divided by: the standard deviation of the group, of the step, or
    nothing."""
    epsilon: float = Field(0.2, ge=0)
    """Ratios are clipped below 1 - epsilon ..."""
    epsilon_high: float | None = Field(None, ge=0)
    """... and above 1 + epsilon_high; null: epsilon."""
    delta: float | None = Field(None, gt=1)
    """Largest ratio of answers worse than their group; null: any."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """A ratio for each token, or one for each answer (GSPO)."""
    sapo_temperature_pos: float = Field(1.0, gt=0)
    """Of sapo, answers better than their group."""
    sapo_temperature_neg: float = Field(1.05, gt=0)
    """Of sapo, the others."""
    mask_truncated_completions: bool = False
    """Learn nothing from answers that did not come to their end."""
    beta: float = Field(0.0, ge=0)
    """Weight of the distance (KL) to the base under the adapter; 0: none is computed."""
    use_bias_correction_kl: bool = True
    """Multiply that distance by the ratios, which makes its gradient unbiased, as TRL does."""
    disable_dropout: bool = True
    """Train without dropout, the adapter's included: answers were drawn without."""
    padding_free: bool | None = None
    """As sft.padding_free."""
    pad_to_multiple_of: int | None = Field(None, ge=1)
    """Pad batches to a multiple of this; null: 8 in half precision."""
