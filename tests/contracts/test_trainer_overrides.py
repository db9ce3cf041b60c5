"""All methods of transformers' Trainer and TRL's SFTTrainer that ours override, with their parameters.

Half of them are private, so a new version of either library may change them silently; this test would show it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from utils.tasks.classification.trainer import ClassificationTrainer
from utils.tasks.sft.trainer import CausalTrainer

STEP = "model inputs num_items_in_batch"
PREDICTION = "model inputs prediction_loss_only ignore_keys"
LOSS = "model inputs return_outputs num_items_in_batch"
OVERRIDDEN = {
    "Trainer._determine_best_metric": "metrics trial",
    "Trainer._evaluate": "trial ignore_keys_for_eval skip_scheduler",
    "Trainer._finalize_training": "trial num_train_samples start_time",
    "Trainer._get_dataloader": "dataset description batch_size sampler_fn is_training dataloader_key",
    "Trainer._get_eval_sampler": "eval_dataset",
    "Trainer._get_grad_norm": "model grad_norm",
    "Trainer._get_train_sampler": "train_dataset",
    "Trainer._init_training_state": (
        "max_steps num_update_steps_per_epoch num_train_epochs resume_from_checkpoint trial"
    ),
    "Trainer._load_best_model": "",
    "Trainer._load_from_checkpoint": "resume_from_checkpoint model",
    "Trainer._load_optimizer_and_scheduler": "checkpoint",
    "Trainer._load_rng_state": "checkpoint",
    "Trainer._maybe_log_save_evaluate": (
        "tr_loss grad_norm model trial epoch ignore_keys_for_eval start_time learning_rate"
    ),
    "Trainer._run_epoch": (
        "model epoch train_dataloader steps_in_epoch num_update_steps_per_epoch trial ignore_keys_for_eval start_time "
        "resume_from_checkpoint epochs_trained steps_trained_in_current_epoch"
    ),
    "Trainer._save": "output_dir state_dict",
    "Trainer._save_checkpoint": "model trial",
    "Trainer.compute_loss": LOSS,
    "Trainer.create_optimizer": "model",
    "Trainer.create_scheduler": "num_training_steps optimizer",
    "Trainer.evaluation_loop": "dataloader description prediction_loss_only ignore_keys metric_key_prefix",
    "Trainer.log": "logs start_time",
    "Trainer.prediction_step": PREDICTION,
    "Trainer.train": "resume_from_checkpoint trial ignore_keys_for_eval",
    "Trainer.training_step": STEP,
    "SFTTrainer._save_checkpoint": "model trial",
    "SFTTrainer.compute_loss": LOSS,
    "SFTTrainer.log": "logs start_time",
    "SFTTrainer.prediction_step": PREDICTION,
    "SFTTrainer.training_step": "args kwargs",
}


def _overridden() -> Iterator[tuple[str, str]]:
    """List each library method that a class of ours overrides, with its parameters."""
    for trainer in (ClassificationTrainer, CausalTrainer):
        libraries = [each for each in trainer.__mro__ if each.__module__.startswith(("transformers.", "trl."))]
        for ours in (each for each in trainer.__mro__ if each.__module__.startswith("utils.")):
            for name in (name for name, value in vars(ours).items() if inspect.isfunction(value) and name[:2] != "__"):
                for theirs in (each for each in libraries if name in vars(each)):
                    parameters = list(inspect.signature(vars(theirs)[name]).parameters)[1:]
                    yield f"{theirs.__name__}.{name}", " ".join(parameters)
                    break


def test_overridden_methods_have_the_expected_parameters() -> None:
    assert dict(_overridden()) == OVERRIDDEN
