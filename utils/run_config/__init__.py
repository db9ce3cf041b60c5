"""Reads a run's file: layers, older names, sections, and the rules between them."""

from utils.run_config.load import load_run_config as load_run_config
