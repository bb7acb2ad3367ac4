"""Affine functions and sines as many tasks of one network (paper, section 6, figure 3 and appendix D).

Half of T tasks are a x + b and half a sin(10 x) + b, with a and b from U[0, 1]. Three models learn them all at once
with Adam (3e-3), from 50 samples of each task per step. Choices where the paper is silent:

- x is from U[-1, 1]: sin(10 x) then has three periods, which layers of 20 and 30 units can follow. With a standard
  Gaussian it would have about ten, with U[0, 1] one and a half.
- The logarithm has base 10 and is taken of the training error's mean over 1/100 of the steps, for each repetition;
  curves are means over repetitions with their standard errors.
- Initial weights are PyTorch's for linear layers and `impala_mi.nn.multiplicative`'s for the other; the paper's
  framework had its own.

Each repetition draws new tasks and samples; its models see the same ones and are compared in pairs. A task's
context is one-hot: a linear layer of it is a column of the weights, computed once per task and not once per sample,
and so are the weights generated from it. Features come first, [width, T * B], which suits matrix products of such
small layers best. Several repetitions train in one stack.
"""
