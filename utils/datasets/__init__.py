"""The datasets: one file each, whose name is the value of dataset.name."""
