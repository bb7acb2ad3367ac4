"""Table 1 and figure 5(b): an LSTM with multiplicative embeddings on words (paper, section 8 and appendix G).

The paper names the layers and their sizes, segments of 128 words, dropout of 0.3 and Adam at 0.001. Choices where
it is silent:

- The encoder's diagonal form and the places of dropout: see `word_lstm`.
- Texts are read in `batch` columns, without gaps; the state is carried from segment to segment, not its gradient.
- The gradient's norm is clipped. The learning rate is constant.
- The validation text is read four times per epoch. Training ends after `patience` validations without a better one,
  and the test perplexity is that at the best validation. Every token is predicted once, the first after an <eos>.
  These texts too are read in columns, each from a state of zeros: slightly worse than from end to end.
- Each model is trained from three seeds; all three models of a seed come before the next seed.
- On a GPU training computes in bfloat16 except for the softmax's logarithm, the loss and the multiplicative core;
  evaluation is in float32.

`--quick` reads Python's own documentation and compares models of one size, narrower where the decoder has more
parameters, instead of LSTMs of one width: in the paper the models with more parameters are also the better ones.
"""
