"""The library behind the doors: floors of rooms, printed floor by floor in CONTRIBUTING.md."""
