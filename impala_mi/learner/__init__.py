"""The learner: unrolls to gradients."""
