"""Learning rate schedules beside transformers' own: one file each, whose name is the value of lr_scheduler_type."""
