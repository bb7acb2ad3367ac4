"""The machine a process runs on: threads, memory, signals, temporary folders, orphaned processes."""
