"""Actors: environments and a policy to unrolls."""
