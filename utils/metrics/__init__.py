"""Scores of predictions against references: one metric per file, named as in the YAML."""
