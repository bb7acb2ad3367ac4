"""Where the time goes: each part alone, all of it together, and the distance between the two."""
