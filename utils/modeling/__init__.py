"""Tokenizer and base model: where they come from, how they are loaded, what is new in them."""
