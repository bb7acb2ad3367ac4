"""What a run leaves on disk: its folder, checkpoints, metrics, a mirror, and how they are read back."""
