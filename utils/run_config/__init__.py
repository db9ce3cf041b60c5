"""Reads one run's file: layers, older names, sections, and the rules that cross them."""

from utils.run_config.load import load_run_config as load_run_config
