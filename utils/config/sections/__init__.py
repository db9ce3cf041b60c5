"""The sections of a run's file, one module each."""
