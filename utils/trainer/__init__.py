"""Training: the `training:` and `sft:` sections, the two trainers, and what watches over a run."""
