"""Run a program that trains with transformers' Trainer, and print the real tokens of every step after the step.

python perf/peer_clock.py train.py --config x.yaml        # or a module: swift.cli.sft ...
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

MARK = "STEP-ENDS "
_TRAINER = "transformers.trainer"


def main() -> None:
    """Run the program as if it had been started directly."""
    sys.meta_path.insert(0, _ClockFinder())
    target, sys.argv = sys.argv[1], sys.argv[1:]
    if target.endswith(".py"):
        sys.path[0] = target.rpartition("/")[0] or "."
        runpy.run_path(target, run_name="__main__")
    else:
        del sys.path[0]
        runpy.run_module(target, run_name="__main__", alter_sys=True)


class _ClockFinder(MetaPathFinder):
    """Adds the clock when the program itself imports the Trainer; an earlier import would distort the measurement."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Wrap the loader of the Trainer's module to add the clock; ignore all other modules."""
        if fullname != _TRAINER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_with_clock(module: Any) -> None:
            load(module)
            _add_clock(module.Trainer)

        spec.loader.exec_module = load_with_clock  # type: ignore[method-assign]  # wraps the loader of this module only
        return spec


def _add_clock(trainer: Any) -> None:
    training_step = trainer.training_step

    def training_step_and_line(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")
        tokens = inputs["input_ids"].numel() if mask is None else int(mask.sum())
        loss = training_step(self, model, inputs, *args, **kwargs)
        print(f"\n{MARK}{tokens}", flush=True)
        return loss

    trainer.training_step = training_step_and_line


if __name__ == "__main__":
    main()
