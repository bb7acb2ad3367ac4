"""The machine that a process runs on: threads, memory, signals, files and orphaned processes."""
