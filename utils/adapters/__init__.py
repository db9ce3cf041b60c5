"""Adapter methods: one file per value of `peft.method`, each with its Config, attach, save, load and merge."""
