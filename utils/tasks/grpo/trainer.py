"""Train on answers that the model generates: generate, reward, and learn from the advantages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch

from utils.core.errors import UserError
from utils.data.encoding import MASKED
from utils.evaluation.handing_over import handed_over
from utils.evaluation.processes import gather_lists, share_from_first
from utils.generation.backend import Generated, generate_batches, open_backend
from utils.generation.model_state import keep_random_state
from utils.tasks.grpo.groups import GroupOrder, Rewards, compute_advantages
from utils.tasks.grpo.losses import AnswerBatch, compute_losses
from utils.tasks.preference.batches import PreferenceCollator
from utils.tasks.preference.trainer import PreferenceTrainer
from utils.trainer.varlen_attention import plain_attention

if TYPE_CHECKING:
    from utils.config.sections.generation import GenerationSection
    from utils.tasks.grpo.section import GrpoSection

_ROLLOUTS = "rollouts.pt"


class GrpoTrainer(PreferenceTrainer):
    """A preference trainer whose data loader yields rows to be answered; the loss is computed on the answers.

    Answers are a function of the seed, the step, the row and the weights, so a resumed run generates the same ones.

    `stop` has the strings and token ids that end an answer; `method` is the adapter's, needed to hand it to a server.
    """

    section: GrpoSection

    def __init__(
        self,
        *,
        generation: GenerationSection,
        stop: tuple[Sequence[str], Sequence[int]],
        collate: PreferenceCollator,
        rewards: Rewards,
        method: str,
        seed: int,
        **kwargs: Any,
    ) -> None:
        self._generation, self._stop = generation, stop
        self._collate, self._seed, self._reward, self._method = collate, seed, rewards, method
        self._rollouts: list[dict[str, Any]] = []  # batches of answers of the current steps
        self._saved_rollouts: list[Any] = []
        super().__init__(data_collator=lambda rows: {"rows": rows}, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupOrder:
        args, times = self.args, self.section.num_generations
        per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size // times
        seed = args.seed if args.data_seed is None else args.data_seed
        num_prompts = len(self.train_dataset) // times
        self.row_order = GroupOrder(num_prompts, times, per_step, self.section.num_iterations, seed)
        return self.row_order

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Take the rows of an optimizer step and return batches of answers to them."""
        batches = list(islice(epoch_iterator, num_batches))
        block, phase = divmod(self.state.global_step, self.section.num_iterations)
        if phase == 0:
            self._rollouts = self._generate_batches([batch["rows"] for batch in batches], block)
        elif not self._rollouts:
            assert self.resume.source is not None, "a run begins with answers"
            saved = torch.load(Path(self.resume.source) / _ROLLOUTS, weights_only=True)
            self._rollouts = saved[self.args.process_index]
        return [dict(each) for each in self._rollouts], self._get_num_items_in_batch(self._rollouts, device)

    def _generate_batches(self, batches: list[list[dict[str, Any]]], block: int) -> list[dict[str, Any]]:
        """Generate answers to rows, and make batches of them with their advantages."""
        rows = [row for batch in batches for row in batch]
        answers = self._generate(rows, block)
        scores = self._reward.score([each.text for each in answers], rows)
        advantages = self._compare_groups([row["number"] for row in rows], scores[:, -1].tolist())
        kept = [each.finished or not self.section.mask_truncated_completions for each in answers]
        num_kept = sum(len(each.ids) for each, is_kept in zip(answers, kept, strict=True) if is_kept)
        step_tokens = float(sum(gather_lists([num_kept])))
        made, start = [], 0
        for batch in batches:
            part = slice(start, start + len(batch))
            start = part.stop
            made.append({
                **self._collate([_join(row, answer) for row, answer in zip(batch, answers[part], strict=True)]),
                "advantages": torch.tensor(advantages[part]),
                "rewards": torch.tensor(scores[part], dtype=torch.float32),
                "kept": torch.tensor(kept[part], dtype=torch.float32),
                "step_tokens": torch.tensor(step_tokens),
            })  # fmt: skip
        return [self._add_old_log_probs(each) for each in made]

    def _compare_groups(self, numbers: list[int], rewards: list[float]) -> list[float]:
        """Compute the advantages of answers to rows, given by number; a group may be split across processes."""
        by_number = dict(sorted(gather_lists(list(zip(numbers, rewards, strict=True)))))
        every = torch.tensor([*by_number.values()], dtype=torch.float32)
        found = compute_advantages(every, self.section.num_generations, self.section.scale_rewards)
        advantages = dict(zip(by_number, found.tolist(), strict=True))
        return [advantages[number] for number in numbers]

    def _generate(self, rows: list[dict[str, Any]], block: int) -> list[Generated]:
        model = self.accelerator.unwrap_model(self.model)
        prompts, numbers = [row["input_ids"] for row in rows], [row["number"] for row in rows]
        texts, tokens = self._stop
        found: dict[int, Generated] = {}
        with (
            keep_random_state(),
            plain_attention(model),
            self.compute_loss_context_manager(),
            self._open_generator(model, block) as writer,
        ):
            backend = open_backend(writer, self.processing_class, self._generation, texts, tokens,
                                   seed=self._seed * 100_003 + block)  # fmt: skip
            for written in generate_batches(backend, prompts, backend.plan_batches(prompts), numbers):
                found |= dict(written)
        answers = [found[place] for place in range(len(rows))]
        if not all(each.ids for each in answers):
            writer = self.section.server or f"generation.backend: {self._generation.backend}"
            raise UserError(f"{writer} does not return the token ids of its answers, which training needs")
        return answers

    @contextmanager
    def _open_generator(self, model: Any, block: int) -> Iterator[Any]:
        """Yield the model itself, or a server that has loaded the current adapter."""
        url = self.section.server
        if url is None:
            yield model
            return
        named = share_from_first(f"{block}-{uuid4().hex[:8]}")  # a killed run's names stay on the server
        with handed_over(model, url, self._method, Path(self.args.output_dir), named) as served:
            yield served

    def _add_old_log_probs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the generating model's log-probabilities, if later steps train on the same answers."""
        if self.section.num_iterations == 1:
            return batch
        with self.as_start() as model:
            return {**batch, "old": torch.cat(self.score(model, self._prepare_inputs(batch))).cpu()}

    def compute_rows(self, model: Any, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Compute each answer's loss and length, whether its group scored equal, KL, share clipped, and rewards."""
        logps = torch.cat(self.score(model, inputs))
        reference = None
        if self.section.beta:
            with self.as_base() as base:
                reference = torch.cat(self.score(base, inputs))
        batch = AnswerBatch(
            logps=logps,
            old=inputs.get("old", logps.detach()),
            reference=reference,
            counts=inputs["answer_tokens"],
            advantages=inputs["advantages"],
            kept=inputs["kept"],
            step_tokens=inputs["step_tokens"],
            step_rows=self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
        )
        losses, kl, clipped = compute_losses(batch, self.section)
        alike = (batch.advantages == 0).float()
        return [losses, batch.counts.float(), alike, kl, clipped, *inputs["rewards"].T]

    def describe(self, num_rows: float, *totals: float) -> dict[str, float]:
        """Turn sums over answers into means, under TRL's names."""
        length, alike, kl, clipped, *rewards = (total / num_rows for total in totals)
        found = {"reward": rewards[-1], "completions/mean_length": length, "frac_reward_zero_std": alike}
        if len(self._reward.names) > 1:
            found |= {f"rewards/{name}/mean": each for name, each in zip(self._reward.names, rewards, strict=False)}
        found |= {"kl": kl} if self.section.beta else {}
        return found | ({"clip_ratio/region_mean": clipped} if self.section.num_iterations > 1 else {})

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "reference", "asked", "number"]

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        still_used = self.state.global_step % self.section.num_iterations > 0
        self._saved_rollouts = gather_lists([self._rollouts]) if still_used else []
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self._saved_rollouts:
            torch.save(self._saved_rollouts, Path(output_dir or self.args.output_dir) / _ROLLOUTS)


def _join(row: dict[str, Any], answer: Generated) -> dict[str, list[int]]:
    ids = row["input_ids"]
    return {"input_ids": [*ids, *answer.ids], "labels": [MASKED] * len(ids) + [*answer.ids]}
