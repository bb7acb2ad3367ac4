"""Figure 5(a): decoders of a neural process on draws from a Gaussian process (paper, section 7 and appendix F).

Networks that differ in their decoder alone learn from the same draws: the functions of appendix F, l ~ U[0.1, 10].
The paper names the layers, the optimiser, its learning rate and its clipping. Choices where it is silent:

- Inputs are uniform in [-2, 2]; a step has 16 functions, 1 to 50 contexts and up to 50 targets, which include the
  contexts, as in Kim et al. (2019), who start at 3 contexts.
- "Until convergence" is a number of steps; the report says how far the error still fell in the last quarter. - "The
final layer of the MLP decoder" is its output layer, 128 units to mean and deviation. If it is multiplicative,
  the inputs of the layers before it can be read in two ways, and the claim is judged for both. `mi-all` keeps the
  MLP decoder but for that layer: the first one reads [x; z, h]. In `mi-x` they read x alone, as in the network that
  appendix D writes out; a prediction is then linear in h, which is linear in an average over contexts.
- `mlp-wide` is not in the paper: an MLP with at least as many parameters as `mi-all`, the larger of the two.
- Held-out functions are the same for all networks. Their error is the negative log-likelihood of a target that is
  not a context under the mixture of the predictions for z drawn from q(z | contexts), averaged over targets. For
  the verdict it is also averaged over 1 to 50 contexts, weighted as in training.
- The floor is the Gaussian process itself, which knows the length scale.
"""
