"""What was learnt: playing, scores, generated weights."""
