"""A run on disk: its folder, checkpoints, metrics, sinks of records, a mirror, and reading them back."""
