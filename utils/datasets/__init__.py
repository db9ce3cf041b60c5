"""Datasets: one file each, named after the value of dataset.name."""
