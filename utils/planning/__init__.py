"""Plan a run before it is started: parameters, steps, tokens, memory, and which cards it fits on."""
