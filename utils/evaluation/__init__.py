"""Scores what a model writes: the sets, the evaluation of one of them, and what may be compared."""
