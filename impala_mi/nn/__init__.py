"""The agent's network: torsos, instruction encoder, cores, heads and the multiplicative layers."""
