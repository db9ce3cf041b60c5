"""What a run can be trained for: one folder a task."""
