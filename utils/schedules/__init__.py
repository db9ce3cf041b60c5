"""Learning rate schedules in addition to transformers' own: one file each, named after lr_scheduler_type's value."""
