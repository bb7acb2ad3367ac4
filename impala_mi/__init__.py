"""impala-mi: train one agent on many tasks with IMPALA and multiplicative interactions."""

__version__ = "0.1.0"
