"""Configuration files: strict sections, YAML with line numbers, overrides, one report of all mistakes."""
