"""Tokenizer and base model: where they come from, how they are loaded, and which of their weights are new."""
