"""Training: the base of all trainers, checkpoints and resume, the language-model loss, and callbacks."""
