"""The agent's network."""
