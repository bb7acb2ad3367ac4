"""The driver of a run: actors and a learner on Ray, supervised and recorded."""
