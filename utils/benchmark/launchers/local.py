"""Run a suite on this machine, `--jobs` runs at the same time."""

from __future__ import annotations

from typing import Literal

from utils.config.section import Section


class Config(Section):
    """The `launcher:` section of a suite."""

    name: Literal["local"] = "local"


SCHEDULER = None
