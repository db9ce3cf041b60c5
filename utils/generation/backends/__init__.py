"""What writes answers: one file a backend, named as in `generation.backend`."""
