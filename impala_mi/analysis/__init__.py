"""Analysis of trained agents and of runs: playing, scores, recordings, pictures, reports."""
