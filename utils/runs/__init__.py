"""Makes and reads the folder of a run: nothing is mixed, nothing is lost, and it explains itself."""
