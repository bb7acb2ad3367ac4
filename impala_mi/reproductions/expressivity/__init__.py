"""How many parameters functions of two inputs need (paper, section 3, figure 2 and appendix C).

For x and z in R^d the networks are MLP: linear(size), relu, linear(out) of [x; z], and MI: MI(size), linear(out).
They learn summation, gating and the dot product. The figure shows the number of parameters of the smallest network
within a mean squared error of 0.1 over d. Choices where the paper is silent or unclear:

- *One output or d.* The paper calls the growth of MI for gating quadratic. A unit has d^2 weights and d gates need
  d units, so this must mean one output: gating is sigmoid(x) . z, next to x . z, and summation adds all entries of
  x and z. The functions with d outputs, x + z and sigmoid(x) * z, are measured as well and reported separately.
  Their error is the squared norm, because by the mean over outputs z / 2 alone is within 0.1 of all gates (0.043 at
  any width). The tables include that reading too; Adam's steps do not depend on it.
- *Growth of MI.* One unit suffices for one output. It has d^2 + 2d + 3 parameters with its readout, so quadratic
  growth is arithmetic and its exponent is not measured. d independent outputs need d units: d^3 + 3 d^2 + 2 d.
- *The sweep* [1, 2, 5, ..., 200]: "size is the largest value such that the network has not more than N variables
  and we sweep over" it. It is read as hidden sizes; a network of a size stands for all N that allow this size and
  no larger one. Networks of at most 200 variables would end at small d, so N itself is hardly meant, but thousands
  of variables may be: for MLPs the sweep continues (`BEYOND`) while their first layer has at most 200,000.
- *Input widths* are not given: `ExpressivityProtocol.widths`.
- *Pruning* removes weights below 0.001 of the smallest network, which is evaluated again without them.
- *Repetitions* are not mentioned. Here they differ in initial weights, which are PyTorch's for linear layers and
  `impala_mi.nn.multiplicative`'s for the others. Adam's other settings are PyTorch's.

Beyond the paper: the low-rank form, LowRank(d, d, out) whose rank is the size, and the diagonal form,
Diagonal(d, d), linear(out), which has no size.

Networks of one model and width train in one stack, on the same samples. Sizes are tried in increasing order, a
group at a time, and a function leaves once all of its repetitions are within the error: larger networks cannot be
the smallest. A function with d outputs starts at the sizes that can be within the error by either reading. An
output of rank s < d leaves out d - s of its principal components, each of variance 2 (summation) or 0.293 (gating):
by the sum that exceeds the error; by the mean over outputs it is within it from 0.95 d or 0.66 d on.
"""
