"""Callbacks of both trainers, one side concern in each file."""
