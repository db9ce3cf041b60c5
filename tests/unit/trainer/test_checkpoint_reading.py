"""A checkpoint is not taken on trust: states of other kinds, and pickles that run code, are sentences."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from utils.core.errors import UserError
from utils.trainer.checkpoint_reading import explain_checkpoint, require_like

FRESH = {
    "optimizer": [{"lr": 0.1, "betas": (0.9, 0.999), "fused": None, "amsgrad": False}],
    "scheduler": {"last_epoch": 0},
}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {
                "optimizer": [{"lr": 1, "betas": [0.9, 1], "fused": True, "amsgrad": None}],
                "scheduler": {"last_epoch": 7},
            },
            None,
        ),
        ({**FRESH, "more": 1}, None),
        ({**FRESH, "scheduler": {}}, "scheduler lacks last_epoch"),
        ({**FRESH, "scheduler": []}, "scheduler is no mapping"),
        ({**FRESH, "scheduler": {"last_epoch": "7"}}, "scheduler.last_epoch is str '7', and was int"),
        ({**FRESH, "optimizer": []}, "optimizer is not a list of 1"),
        (
            {**FRESH, "optimizer": [{**FRESH["optimizer"][0], "lr": True}]},
            r"optimizer\[0\].lr is bool 'True', and was float",
        ),
    ],
)
def test_states_of_other_kinds_are_refused(found, said):
    if said is None:
        require_like(found, FRESH, "run/checkpoint-4")
        return
    with pytest.raises(UserError, match=rf"run/checkpoint-4: cannot be resumed \({said}\); .*--resume checkpoint-N"):
        require_like(found, FRESH, "run/checkpoint-4")


class _Hostile:
    def __reduce__(self):
        return os.mkdir, ("it_ran",)


@pytest.mark.parametrize("save", [torch.save, lambda thing, file: file.write_bytes(pickle.dumps(thing))])
def test_a_pickle_that_runs_code_is_a_sentence(save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(_Hostile(), tmp_path / "optimizer.pt")
    with pytest.raises(UserError, match="cannot be resumed"), explain_checkpoint("run/checkpoint-4"):
        torch.load(tmp_path / "optimizer.pt", weights_only=True)
    assert not (tmp_path / "it_ran").exists()
