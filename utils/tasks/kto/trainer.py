"""Train on answers labelled good or bad: KTO's loss as TRL 1.16 defines it, and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from utils.data.encoding import MASKED
from utils.data.preference_encoding import LabelledEncoder, find_prompt
from utils.tasks.kto.section import KtoSection
from utils.tasks.preference.run import PreferenceRun
from utils.tasks.preference.trainer import PreferenceTrainer
from utils.trainer.launch import count_step_rows
from utils.trainer.processes import main_process_first

if TYPE_CHECKING:
    from datasets import Dataset


class KtoTrainer(PreferenceTrainer):
    """A preference trainer with the loss of KTO."""

    section: KtoSection

    @property
    def references_per_row(self) -> int:  # type: ignore[override]  # the base declares an attribute
        """Two if the KL is estimated, for the row's own answer and another row's; else one."""
        return 2 if self.section.loss_type == "kto" else 1

    def compute_rows(self, model: Any, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Compute each row's loss; reward, log-probability and count of good and of bad answers; and the KL."""
        logps, is_good = self.reduce(self.score(model, inputs)), inputs["is_good"]
        reference = self.score_reference(inputs)
        ratios = logps - reference[: len(logps)]
        kl = self._estimate_kl(model, inputs, reference[len(logps) :])
        signs = torch.where(is_good, 1.0, -1.0)
        losses = 1 - torch.sigmoid(self.section.beta * signs * (ratios - kl))
        weights = torch.where(is_good, self.section.desirable_weight, self.section.undesirable_weight)
        rewards, logps, good = self.section.beta * ratios.detach(), logps.detach(), is_good.float()
        bad = 1 - good
        by_label = [rewards * good, logps * good, good, rewards * bad, logps * bad, bad]
        return [losses * weights, *by_label, kl.expand_as(losses)]

    def describe(self, num_rows: float, *totals: float) -> dict[str, float]:
        """Turn sums over rows into means, under TRL's names; a label without rows has none."""
        found = {"kl": totals[-1] / num_rows}
        for name, (reward, logp, count) in (("chosen", totals[:3]), ("rejected", totals[3:6])):
            if count:
                found |= {f"rewards/{name}": reward / count, f"logps/{name}": logp / count}
        if totals[2] and totals[5]:
            found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
        return found

    def reference_of(self, model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Compute the log-probabilities of the rows' own answers, then those of the exchanged answers."""
        found = [self.reduce(self.score(model, each)) for each in (inputs, inputs.get("kl")) if each is not None]
        return torch.cat(found)

    def _estimate_kl(self, model: Any, inputs: Mapping[str, Any], reference: torch.Tensor) -> torch.Tensor:
        """Estimate the KL divergence from the reference on prompts with other rows' answers; at least 0."""
        if "kl" not in inputs:
            return torch.zeros((), device=self.args.device)
        with torch.no_grad():
            own = self.reduce(self.score(model, inputs["kl"]))
        return self.accelerator.gather((own - reference).mean()[None]).mean().clamp(min=0)


class KtoRun(PreferenceRun):
    """See `utils.tasks.task.TaskRun`."""

    TRAINER = KtoTrainer
    ENCODER = LabelledEncoder
    SHARES = ()

    def extend(self, rows: Dataset) -> Dataset:
        """Add the answer of the previous row of its step to each row, for estimating the KL.

        The rows are taken unshuffled: TRL uses each process's batches, so its estimate depends on the number of
        processes.
        """
        config = self._settings
        if config.section(KtoSection).loss_type != "kto":
            return rows
        with main_process_first(config.training.output_dir):
            return exchange_answers(rows, count_step_rows(config.arguments), config.max_length)


def exchange_answers(rows: Dataset, block: int, max_length: int) -> Dataset:
    """Add columns that pair each prompt with the previous row's answer, within blocks of `block` rows."""

    def exchange(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        starts = [find_prompt(labels) for labels in batch["labels"]]
        answers = [ids[start:] for ids, start in zip(batch["input_ids"], starts, strict=True)]
        pairs = [
            (ids[:start], answer[: max(1, max_length - start)])
            for ids, start, answer in zip(batch["input_ids"], starts, [*answers[-1:], *answers[:-1]], strict=True)
        ]
        return {
            "kl_input_ids": [prompt + answer for prompt, answer in pairs],
            "kl_labels": [[MASKED] * len(prompt) + answer for prompt, answer in pairs],
        }

    extended: Dataset = rows.map(exchange, batched=True, batch_size=block)
    return extended
