"""Optimizers beside transformers' own: one file each, whose name is the value of training.optim."""
