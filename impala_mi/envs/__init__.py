"""Environments: the contract, the suites, and many of them side by side."""
