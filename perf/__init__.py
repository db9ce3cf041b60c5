"""Benchmark scripts that print measurements; they are not tests."""
