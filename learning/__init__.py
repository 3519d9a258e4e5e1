"""Data, models, tensors and local training. This floor imports nothing of the project's other rooms."""
