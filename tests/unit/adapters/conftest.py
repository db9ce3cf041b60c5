"""Attaches adapter methods to tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

INIT_TEXTS = tuple(
    " ".join(f"w{(7 * row + 5 * place + row * place) % 52}" for place in range(4 + row % 9)) for row in range(16)
)
"""Rows of several lengths for data-driven initialisations."""


@pytest.fixture
def quickstart_base() -> str:
    """Return the embedded base, a small trained language model whose output layer is tied."""
    return str(Path(__file__).parents[3] / "examples" / "quickstart" / "base")


@pytest.fixture
def attach(tiny_base: Callable[..., Path]) -> Callable[..., Any]:
    """Return `attach("bert", "lora", lora_r=4)`, which loads a tiny classifier and attaches an adapter method."""

    def run(
        family: str, method: str, model: dict[str, Any] | None = None, num_labels: int | None = 3, **keys: Any
    ) -> Any:
        from transformers import set_seed

        from utils.adapters.adapter import AttachContext, load_adapter
        from utils.config.sections.model import ModelSection
        from utils.modeling.base_model import load_base_model
        from utils.modeling.head import build_head_spec, list_new_modules
        from utils.modeling.tokenizer import added_token_ids, load_tokenizer

        model = {"name_or_path": str(tiny_base(family)), **(model or {})}
        context_keys = {
            key: keys.pop(key)
            for key in ("mixed_precision", "training_batches", "num_training_steps", "base_commit")
            if key in keys
        }
        section, plugin = ModelSection(**model), load_adapter(method)
        tokenizer = load_tokenizer(section)
        head = build_head_spec([f"c{index}" for index in range(num_labels)]) if num_labels else None

        def draw_batches(count: int, batch_size: int) -> Any:
            from utils.tasks.preparing import collate_training_rows
            from utils.tasks.task import default_task

            task = default_task("SEQ_CLS" if num_labels else "CAUSAL_LM")
            rows = [dict(tokenizer(text), labels=index % (num_labels or 1)) for index, text in enumerate(INIT_TEXTS)]
            rows = [{**row, "labels": row["labels"] if num_labels else row["input_ids"]} for row in rows]
            return collate_training_rows(rows[:count], batch_size, tokenizer, task)

        def load_base(folder: str | None) -> Any:
            from_folder = section if folder is None else section.model_copy(update={"name_or_path": folder})
            return load_base_model(from_folder, tokenizer, head, 42)

        base = load_base(None)
        context = AttachContext(
            task_type="SEQ_CLS" if num_labels else "CAUSAL_LM",
            has_new_head=bool(num_labels),
            seed=42,
            added_token_ids=tuple(added_token_ids(tokenizer, base)),
            new_modules=tuple(list_new_modules(base)),
            **{"training_batches": draw_batches, **context_keys},
        )
        set_seed(42)
        adapted = plugin.attach(base, plugin.Config(**keys), context)
        return SimpleNamespace(
            model=adapted, plugin=plugin, tokenizer=tokenizer, load_base=load_base, batches=draw_batches
        )

    return run


@pytest.fixture
def train_a_few_steps() -> Callable[..., None]:
    """Return a function that runs a few optimizer steps on random rows."""

    def train(attached: Any, steps: int = 3) -> None:
        import torch

        torch.manual_seed(0)
        trained = [parameter for parameter in attached.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.05)
        attached.model.train()
        for _ in range(steps):
            batch = attached.tokenizer(["good w1 w2", "bad", "film a w5 w6"], padding=True, return_tensors="pt")
            batch["labels"] = torch.tensor([0, 1, 2])
            attached.model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        attached.model.eval()

    return train


@pytest.fixture
def read_logits() -> Callable[..., Any]:
    """Return a function that computes logits of a few rows."""

    def read(model: Any, tokenizer: Any, texts: tuple[str, ...] = ("good w1 w2 w3", "bad film", "a")) -> Any:
        import torch

        batch = tokenizer(list(texts), padding=True, return_tensors="pt")
        with torch.no_grad():
            return model.eval()(**batch).logits.float()

    return read
