"""How many parameters functions of two inputs need (paper, section 3, figure 2 and appendix C).

For x and z in R^d the networks are MLP: linear(size), relu, linear(out) of [x; z], and MI: MI(size), linear(out).
They learn summation, gating and the dot product; the number of parameters of the smallest network within a mean
squared error of 0.1 is drawn over d. Where the paper is silent or unclear:

- *One output or d.* The paper calls the growth of MI for gating quadratic. A unit has d^2 weights and d gates need
  d units, so that is of one output: gating is sigmoid(x) . z, beside x . z, and summation is of all entries of x
  and z. The functions with d outputs, x + z and sigmoid(x) * z, are measured as well and kept apart. Their error is
  the squared norm, because by the mean over outputs z / 2 alone is within 0.1 of all gates (0.043 at any width).
  That reading is in the tables too; Adam's steps do not depend on it.
- *The sweep* [1, 2, 5, ..., 200]: "size is the largest value such that the network has not more than N variables
  and we sweep over" it. It is read as hidden sizes; a network of a size stands for all N that allow this size and
  no larger one. Networks of at most 200 variables would end at small d, so N itself is hardly meant, but thousands
  of variables may be: for MLPs the sweep goes on (`BEYOND`) while their first layer has at most 200,000.
- *Input widths* are not given: `Protocol.widths`.
- *Pruned* are weights below 0.001 of the network that was found; it is evaluated again without them.
- *Repetitions* are not mentioned; here they differ in initial weights, which are PyTorch's for linear layers and
  `impala_mi.nn.multiplicative`'s for the others. Adam's other settings are PyTorch's.

Beyond the paper: the low-rank form, LowRank(d, d, out) whose rank is the size, and the diagonal form,
Diagonal(d, d), linear(out), which has no size.

Networks of one model and width train in one stack, on the same samples. Sizes are tried from below, some at a time,
and a function leaves once all of its repetitions are within the error: larger networks cannot be the smallest. A
function of d outputs enters with the sizes that can be within the error by either reading. An output of rank s < d
leaves d - s of its principal components out, each of variance 2 (summation) or 0.293 (gating): by the sum that is
beyond the error, by the mean over outputs it is not from 0.95 d or 0.66 d on.
"""
