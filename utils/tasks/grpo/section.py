"""The `grpo:` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from utils.config.section import Section


class GrpoSection(Section):
    """The `grpo:` section, with TRL's key names."""

    rewards: dict[str, float] = {}
    """Metrics of generated text with their weights, `{em_strict: 1.0}`: an answer's reward is the weighted sum of its
    scores. For a reward of your own, write a metric in a folder listed under `extensions:`."""
    reward_models: dict[str, float] = {}
    """Trained reward models with their weights, added to that sum: a hub id, or a folder that merge_adapter.py wrote
    from a `reward:` run. Each stays in memory beside the model."""
    max_prompt_length: int = Field(512, ge=8)
    """Maximum tokens of a prompt; longer ones lose their middle, or follow dataset.truncation."""
    max_completion_length: int = Field(256, ge=1)
    """Maximum tokens of an answer."""
    server: str | None = None
    """A vLLM server of the run's base that generates the answers, such as `http://127.0.0.1:8000/v1`; it loads the
    current adapter at each step. Log-probabilities are computed here. null: the model itself generates."""
    num_generations: int = Field(8, ge=2)
    """Answers per prompt, which are compared with each other. The rows of an optimizer step
    (per_device_train_batch_size * gradient_accumulation_steps * processes) are answers, a multiple of this."""
    num_iterations: int = Field(1, ge=1)
    """Optimizer steps on the same answers; from the second on, ratios are clipped."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of the answers; log-probabilities are computed at the same temperature."""
    top_p: float | None = Field(None, gt=0, le=1)
    """As generation.top_p, for the answers that are trained on."""
    top_k: int | None = Field(None, ge=1)
    """As generation.top_k, for the answers that are trained on."""
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo"] = "dapo"
    """How token losses are aggregated, named as in TRL. dapo: mean over the step's tokens; grpo: mean over each
    answer's tokens, then over answers; bnpo: mean over a batch's tokens; dr_grpo: sum divided by max_completion_length.
    """
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divisor of the rewards minus their group's mean: the standard deviation of the group, of the step, or none."""
    epsilon: float = Field(0.2, ge=0)
    """Ratios are clipped below 1 - epsilon ..."""
    epsilon_high: float | None = Field(None, ge=0)
    """... and above 1 + epsilon_high; null: epsilon."""
    delta: float | None = Field(None, gt=1)
    """Upper bound of the ratio for answers worse than their group; null: none."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """One ratio per token, or one per answer (GSPO)."""
    sapo_temperature_pos: float = Field(1.0, gt=0)
    """sapo: temperature for answers better than their group."""
    sapo_temperature_neg: float = Field(1.05, gt=0)
    """sapo: temperature for the other answers."""
    mask_truncated_completions: bool = False
    """Do not train on answers cut at max_completion_length."""
    beta: float = Field(0.0, ge=0)
    """Weight of the KL divergence from the base without the adapter; 0: it is not computed."""
    use_bias_correction_kl: bool = True
    """Multiply the KL term by the ratios, which makes its gradient unbiased, as TRL does."""
    disable_dropout: bool = True
    """Train without dropout, the adapter's included: the answers are generated without it."""
    padding_free: bool | None = None
    """As sft.padding_free."""
    pad_to_multiple_of: int | None = Field(None, ge=1)
    """Pad batches to a multiple of this; null: 8 in half precision."""
