"""Affine functions and sines as many tasks of one network (paper, section 6, figure 3 and appendix D).

Half of T tasks are a x + b and half a sin(10 x) + b, with a and b from U[0, 1]. Three models learn them all at once
with Adam (3e-3), 50 samples of each task a step. Where the paper is silent:

- x is from U[-1, 1]: sin(10 x) then has three periods, which layers of 20 and 30 units can follow. Of a standard
  Gaussian it would be some ten, of U[0, 1] one and a half.
- The logarithm is of base 10 and taken of the training error's mean over 1/100 of the steps, for each repetition;
  curves are means over repetitions and their standard errors.
- Initial weights are PyTorch's for linear layers and `impala_mi.nn.multiplicative`'s for the other; the paper's
  framework had its own.

A repetition draws its tasks and samples anew; its models see the same ones and are compared in pairs. A task's
context is one-hot: a linear layer of it is a column of the weights, computed once a task and not once a sample, and
so are the weights that it generates. Features come first, [width, T * B], which suits matrix products of such small
layers best. Several repetitions train in one stack.
"""
