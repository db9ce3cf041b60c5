"""Optimizers in addition to transformers' own: one file each, named after the value of training.optim."""
