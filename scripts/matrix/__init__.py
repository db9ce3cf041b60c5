"""The support matrix: every method on every family, with and without quantization, really run on tiny models."""
