"""Score a trained run, or a model of the hub, on sets: the library behind evaluate_model.py."""
