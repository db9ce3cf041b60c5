"""What every layer stands on: errors, logging, secrets, signals, files, seeds and the registry of plug-ins."""
