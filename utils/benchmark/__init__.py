"""Runs many tasks, methods and seeds, each in a process of its own, and puts what they measured in one table."""
