"""The library under the name by which it is installed, for code beside a clone: `from lora_ns import train`."""

import sys

import utils
from utils import Run, load_config, load_run, train
from utils.core.project import alias_installed_name

__all__ = ["Run", "load_config", "load_run", "train"]

alias_installed_name()
sys.modules[__name__] = utils
