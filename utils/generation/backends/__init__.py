"""Backends that generate answers: one file each, named as in `generation.backend`."""
