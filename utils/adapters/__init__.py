"""Methods: one file per method of `peft.method`, each with its Config, attach, save, load and merge."""
