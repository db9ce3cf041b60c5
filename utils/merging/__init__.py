"""Merge an adapter into its base: the library behind merge_adapter.py."""
