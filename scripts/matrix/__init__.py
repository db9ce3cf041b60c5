"""The support matrix: every method on every family, with and without quantization, run on tiny models."""
