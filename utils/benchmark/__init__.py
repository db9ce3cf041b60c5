"""Suites: many tasks, methods and seeds, each run in its own process, tabulated together."""
