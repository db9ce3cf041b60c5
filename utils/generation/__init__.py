"""Batched generation and classification: rows sorted by length under a token budget, results in their order."""
