"""Figure 5(a): decoders of a neural process on draws from a Gaussian process (paper, section 7 and appendix F).

Networks that differ in their decoder alone learn from the same draws: the functions of appendix F, l ~ U[0.1, 10].
The paper names the layers, the optimiser, its learning rate and its clipping. Chosen here, where it is silent:

- Inputs are uniform in [-2, 2]; a step sees 16 functions, 1 to 50 contexts and, these among them, up to 50 targets:
  Kim et al. (2019), who begin with 3 contexts.
- "Until convergence" is a number of steps; how far the error still fell in their last quarter is reported.
- "The final layer of the MLP decoder" is its output layer, 128 units to mean and deviation. What the layers before
  it see when it is multiplicative can be read in two ways, and the claim is judged for both. `mi-all` keeps the MLP
  decoder but for that layer: the first one sees [x; z, h]. In `mi-x` they see x alone, as in the network that
  appendix D writes out; a prediction is then linear in h, which is linear in an average over contexts.
- `mlp-wide` is not in the paper: an MLP of at least as many parameters as `mi-all`, the larger of the two.
- Held-out functions are the same for all networks. Their error is the negative log-likelihood of a target that is
  not a context under the mixture of the predictions of z drawn from q(z | contexts), averaged over targets; and,
  for the verdict, over 1 to 50 contexts, as likely as in training.
- The floor is the Gaussian process itself, which is told the length scale.
"""
