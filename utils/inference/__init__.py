"""Inference: a trained model's answers to a user's own rows."""
