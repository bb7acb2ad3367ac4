"""The measurements behind `impala-mi bench`: the cost of each part of training, and of all parts together."""
