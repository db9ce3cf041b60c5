"""Scores of predictions against references; metrics are named as in the YAML."""
