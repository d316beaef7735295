"""Names of public checkpoints' tensors, one file an architecture."""
