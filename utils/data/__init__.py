"""Rows: finding, reading, splitting and encoding them, and reporting what was found."""
