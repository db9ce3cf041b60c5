"""Rows: where they are, how they are read, split and encoded, and the report of what was found in them."""
