"""The lowest layer: errors, logging, secrets, signals, files and the registry of plug-ins."""
