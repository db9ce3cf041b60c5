"""The library that the commands open: its layers stand in CONTRIBUTING.md."""
