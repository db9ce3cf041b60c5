"""Tiny random models of many families with side networks attached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from scripts.matrix.families import SHAPE, build_family_config


@pytest.fixture(scope="session")
def build_config() -> Callable[..., Any]:
    """Return a function that builds a family's config: three layers of width 32, overridden by keywords."""
    return build_family_config


@pytest.fixture(scope="session")
def build_base(build_config: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that builds a family's random model in evaluation mode, the same on every call."""
    import transformers

    def build(family: str, task_type: str = "CAUSAL_LM", config: Any = None, **changes: Any) -> Any:
        auto = transformers.AutoModelForCausalLM if task_type == "CAUSAL_LM" else (
            transformers.AutoModelForSequenceClassification
        )  # fmt: skip
        torch.manual_seed(7)
        model = auto.from_config(config or build_config(family, **changes)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=0.15)  # large enough that a wrong row or position shows in the logits
        return model

    return build


@pytest.fixture(scope="session")
def attach_side_network() -> Callable[..., Any]:
    """Return a function that attaches a side network; `scattered` randomises its trained parameters."""

    def put(model: Any, scattered: bool = True, task_type: str | None = None, **keys: Any) -> Any:
        from peft import get_peft_model

        from utils.adapters.qst import QSTConfig

        task_type = task_type or ("SEQ_CLS" if "SequenceClassification" in type(model).__name__ else "CAUSAL_LM")
        torch.manual_seed(11)
        keys = {"reduction_factor": 2, "downsample_rank": 4, **keys}
        adapted = get_peft_model(model, QSTConfig(task_type=task_type, **keys))
        if scattered:
            scatter_trained(adapted)
        return adapted.eval()

    return put


@pytest.fixture(scope="session")
def scatter() -> Callable[[Any], None]:
    """Return `scatter_trained`, which leaves no trained parameter at its zero initialisation."""
    return scatter_trained


def scatter_trained(model: Any) -> None:
    """Redraw the trained parameters around their present mean."""
    torch.manual_seed(13)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)


@pytest.fixture
def draw_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Return a function that draws four rows of nine tokens; `padding` is right, left or None."""

    def draw(padding: str | None = "right", seed: int = 3, **more: Any) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(5, 64, (4, 9), generator=generator)
        mask = torch.ones_like(ids)
        for row, num_padded in ((1, 4), (3, 2)) if padding else ():
            mask[row, slice(9 - num_padded, 9) if padding == "right" else slice(0, num_padded)] = 0
        return {"input_ids": ids.masked_fill(mask == 0, SHAPE["pad_token_id"]), "attention_mask": mask, **more}

    return draw


class DictStore:
    """The simplest row store: tensors in a dictionary, for a limited number of rows."""

    def __init__(self, hidden_size: int, dtype: torch.dtype, room: int = 10**6) -> None:
        self.rows: dict[bytes, torch.Tensor] = {}
        self.hidden_size = hidden_size
        self.dtype = dtype
        self.room = room
        self.damaged: set[bytes] = set()
        self.is_closed = False
        self.is_exact = True

    def __contains__(self, key: bytes) -> bool:
        return key in self.rows

    def add(self, key: bytes, states: torch.Tensor) -> bool:
        """Store a row if the limit allows."""
        assert key not in self.rows
        assert states.dtype == self.dtype
        assert states.device.type == "cpu"
        assert not states.requires_grad
        if len(self.rows) < self.room:
            self.rows[key] = states.clone()
        return key in self.rows

    def read_into(self, key: bytes, out: torch.Tensor, offset: int = 0) -> bool:
        """Copy a row to its place in the batch; drop it if it is damaged."""
        if key in self.damaged:
            self.rows.pop(key, None)
        if key not in self.rows:
            return False
        out[:, offset : offset + self.rows[key].shape[1]].copy_(self.rows[key])
        return True

    def close(self) -> None:
        """Record that the store was closed."""
        self.is_closed = True


@pytest.fixture
def start_replay() -> Callable[..., Any]:
    """Return a function that starts the replay of an adapted model with a `DictStore`."""

    def start(adapted: Any, room: int = 10**6) -> Any:
        return adapted.base_model.start_replay(lambda num_states, size, dtype: DictStore(size, dtype, room))

    return start


def compute_logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return a batch's logits, without gradients."""
    with torch.no_grad():
        logits: torch.Tensor = model(**batch).logits
    return logits
