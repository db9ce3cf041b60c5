"""Evaluation by generation: sets, the evaluation of a set, and which scores are comparable."""
