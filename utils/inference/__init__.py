"""Rows in, answers out: using a trained model on a user's own texts."""
