"""Adapter and base in, one plain model out: the library behind merge_adapter.py."""
