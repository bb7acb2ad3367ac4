"""The three language models of the paper's table 1 (section 8, appendix G).

`LSTM + MultEncDec` mixes the word's embedding z_t with h_{t-1} in "a diagonal form" of
M(z_t, h_{t-1}) = z_t^T W'' h_{t-1} + z_t^T U + V h_{t-1} + b before the LSTM. The paper says neither how wide the
result is nor where it enters. An element-wise product needs z_t and h_{t-1} at one width, and only one of the two
possible widths gives the 110 million parameters of table 1:

- the width of h: (W_mx z_t) * (W_mh h_{t-1}) where the gates would read h_{t-1}. This is the multiplicative LSTM,
  which the paper names for this form, and the agent's core of that name: 109.8 million parameters. It is the form
  used here. Its gates have terms in z_t alone, z_t^T U + b, and none in h_{t-1} alone.
- the width of z_t, in its place, `Diagonal(256, 2048)`: 106.1 million.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from impala_mi.nn.core import LSTMCore
from impala_mi.nn.language import AdaptiveSoftmax, MultiplicativeDecoder, TiedSoftmax
from impala_mi.nn.mlstm import MultiplicativeLSTMCore
from impala_mi.types import LSTMState

Kind = Literal["LSTM", "LSTM + MultDec", "LSTM + MultEncDec"]
KINDS: tuple[Kind, ...] = ("LSTM", "LSTM + MultDec", "LSTM + MultEncDec")

Dropout = Callable[[Tensor], Tensor]
"""Function that zeroes some elements of a tensor and scales the others."""


@dataclass(frozen=True)
class LanguageModelSizes:
    """Sizes of a language model, by default the paper's."""

    vocabulary: int
    embedding: int = 256
    hidden: int = 2048
    context: int = 32
    adaptive: bool = False
    """Whether to use an adaptive softmax, whose output embeddings are not tied to the input's."""


class LanguageModel(nn.Module):
    """Words to output embeddings, and those to probabilities of the next word.

    `LSTM`: z_t = W x_t, h_t = LSTM(z_t), z^o = W_2 h_t + b, softmax(z^o W^T + b_2), W tied.
    `LSTM + MultDec`: z^o = M(h_t, c), c = relu(W_3 h_t + b), in its place.
    `LSTM + MultEncDec`: with the multiplicative LSTM too, see above.

    W starts with variance 1 / E, so logits are near zero and the first perplexity is near the vocabulary's size.
    The core reads z_t times the root of E, which has unit variance.
    """

    def __init__(self, kind: Kind, sizes: LanguageModelSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.words = nn.Embedding(sizes.vocabulary, sizes.embedding)
        nn.init.normal_(self.words.weight, std=sizes.embedding**-0.5)
        core = MultiplicativeLSTMCore if kind == "LSTM + MultEncDec" else LSTMCore
        self.core = core(sizes.embedding, sizes.hidden)
        self.decoder = (
            nn.Linear(sizes.hidden, sizes.embedding)
            if kind == "LSTM"
            else MultiplicativeDecoder(sizes.hidden, sizes.context, sizes.embedding)
        )
        self.softmax = (
            AdaptiveSoftmax(sizes.vocabulary, sizes.embedding) if sizes.adaptive else TiedSoftmax(sizes.vocabulary)
        )

    def initial_state(self, batch: int) -> LSTMState:
        """State at the start of a text, zeros [B, H]."""
        zeros = self.words.weight.new_zeros(batch, self.sizes.hidden)
        return LSTMState(zeros, zeros)

    def forward(
        self, words: Int[Tensor, "T B"], state: LSTMState, dropout: Dropout = lambda x: x
    ) -> tuple[Float[Tensor, "N E"], LSTMState]:
        """Output embeddings [T * B, E] of the words after these, and the state after the last, without gradients.

        Dropout is applied to z_t and to the decoder's input h_t; the paper does not say where.
        """
        z = dropout(self.words(words) * self.sizes.embedding**0.5)
        never = torch.zeros(words.shape, dtype=torch.bool)  # no text starts within another
        if isinstance(self.core, MultiplicativeLSTMCore):  # it cannot mix precisions
            with torch.autocast(z.device.type, enabled=False):
                h, after, _ = self.core(z, never, state)
        else:
            h, after, _ = self.core(z, never, state)
        return self.decoder(dropout(h)).flatten(0, 1), LSTMState(*(part.detach().float() for part in after))

    def loss(self, z: Float[Tensor, "N E"], targets: Int[Tensor, "T B"]) -> Float[Tensor, ""]:
        """Mean of -log p(target)."""
        return self.softmax.loss(z, self.words.weight, targets.flatten())

    def surprise(self, z: Float[Tensor, "N E"], targets: Int[Tensor, "T B"]) -> Float[Tensor, "T B"]:
        """Values of -log p(target), without gradients."""
        return self.softmax.surprise(z, self.words.weight, targets.flatten()).view(targets.shape)


def model_parameters(kind: Kind, sizes: LanguageModelSizes) -> int:
    """Number of learnt parameters; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in LanguageModel(kind, sizes).parameters() if p.requires_grad)


def match_parameters(kind: Kind, sizes: LanguageModelSizes, target: int) -> LanguageModelSizes:
    """The sizes with the width of the core that brings the number of parameters closest to a target."""

    def sized(hidden: int) -> LanguageModelSizes:
        return replace(sizes, hidden=hidden)

    wide = bisect_left(range(target), target, lo=1, key=lambda hidden: model_parameters(kind, sized(hidden)))
    return min(map(sized, (wide - 1, wide)), key=lambda s: abs(model_parameters(kind, s) - target))
