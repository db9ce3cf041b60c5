"""Batched answers of a model: rows sorted by length under a token budget, given back in their order."""
