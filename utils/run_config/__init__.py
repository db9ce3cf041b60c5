"""The whole file as one typed object: composes the sections and holds the few rules that cross them."""

from utils.run_config.inspection import load_run_config as load_run_config
from utils.run_config.resolved import RunConfig as RunConfig
from utils.run_config.resolved import find_differences as find_differences
