"""What every layer stands on: errors, logging, secrets, signals, files and the registry of plug-ins."""
