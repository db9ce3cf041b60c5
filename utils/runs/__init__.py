"""Run folders: creating, opening, describing and publishing them."""
