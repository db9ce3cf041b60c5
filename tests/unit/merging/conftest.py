"""Trained and saved runs to merge, with the trained model still in memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def train_run(prepare_run):
    """Return a function that trains what a configuration describes and saves it as train.py does."""

    def train(config: Any) -> SimpleNamespace:
        from utils.runs import export
        from utils.runs.opening import open_run_folder

        folder = open_run_folder(config, None, False)
        run = prepare_run(config=config)
        export.write_data_facts(folder, run.config, run.data)
        run.trainer.train()
        export.export_model(folder, config, run.trainer, run.tokenizer, run.data)
        run.folder = Path(folder.path)
        return run

    return train
