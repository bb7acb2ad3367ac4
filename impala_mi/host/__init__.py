"""The machine that a process runs on: threads, memory, signals, files, orphaned processes; imports no other part."""
