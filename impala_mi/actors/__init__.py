"""Actors: processes that play environments with the agent and deliver rollouts."""
