"""Table 1 and figure 5(b): an LSTM with multiplicative embeddings on words (paper, section 8 and appendix G).

The paper names the layers and their sizes, segments of 128 words, dropout of 0.3 and Adam at 0.001. Chosen here,
where it is silent:

- Which diagonal form the encoder has and where dropout is applied: see `model`.
- Texts are read in `batch` columns, without gaps; the state is carried from segment to segment, not its gradient.
- The gradient's norm is clipped. The learning rate stays as it is.
- The validation text is read four times an epoch, training ends when `patience` times brought nothing, and the
  test's perplexity is that at the best of them. Every token is predicted once, the first after an <eos>.
  They too are read in columns, each from a state of zeros: a little worse than from end to end.
- Each model is trained from three seeds; all three of a seed come before the next seed.
- On a GPU training computes in bfloat16 but for the softmax's logarithm, the loss and the multiplicative core;
  evaluation is in float32.

`--quick` reads Python's own documentation and has models of one size, narrower where the decoder has more
parameters, instead of LSTMs of one width: the paper's models with more parameters are the better ones anyway.
"""
