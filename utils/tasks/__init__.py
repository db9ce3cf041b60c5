"""Training tasks: one module or folder per task."""
