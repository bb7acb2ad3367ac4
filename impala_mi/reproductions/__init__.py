"""The paper's supervised experiments, and its comparison of heads."""
