"""The three language models of the paper's table 1 (section 8, appendix G).

`LSTM + MultEncDec` mixes the word's embedding z_t with h_{t-1} in "a diagonal form" of
M(z_t, h_{t-1}) = z_t^T W'' h_{t-1} + z_t^T U + V h_{t-1} + b before the LSTM. The paper says neither how wide the
result is nor where it enters; a product of elements needs z_t and h_{t-1} at one width, and of the two at hand only
one makes the 110 million parameters of table 1:

- as wide as h: (W_mx z_t) * (W_mh h_{t-1}) where the gates would read h_{t-1}. That is the multiplicative LSTM,
  which the paper names for this form, and the agent's core of that name: 109.8 million, and what is done here. Its
  gates have terms in z_t alone, z_t^T U + b; there is none in h_{t-1} alone.
- as wide as z_t, in its place, `Diagonal(256, 2048)`: 106.1 million.
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
from impala_mi.types import CoreState

Kind = Literal["LSTM", "LSTM + MultDec", "LSTM + MultEncDec"]
KINDS: tuple[Kind, ...] = ("LSTM", "LSTM + MultDec", "LSTM + MultEncDec")

Dropout = Callable[[Tensor], Tensor]
"""A tensor with some of its elements zeroed and the others scaled."""


@dataclass(frozen=True)
class Sizes:
    """Of a language model; the paper's but for the vocabulary's."""

    vocabulary: int
    embedding: int = 256
    hidden: int = 2048
    context: int = 32
    adaptive: bool = False
    """An adaptive softmax, whose output embeddings are not the input's."""


class LanguageModel(nn.Module):
    """Words to output embeddings, and those to probabilities of the next word.

    `LSTM`: z_t = W x_t, h_t = LSTM(z_t), z^o = W_2 h_t + b, softmax(z^o W^T + b_2), W tied.
    `LSTM + MultDec`: z^o = M(h_t, c), c = relu(W_3 h_t + b), in its place.
    `LSTM + MultEncDec`: the multiplicative LSTM too, see above.

    W starts with variance 1 / E: logits are near zero, the first perplexity near the vocabulary's size. The core
    reads z_t multiplied by the root of E, which has unit variance.
    """

    def __init__(self, kind: Kind, sizes: Sizes) -> None:
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

    def start(self, batch: int) -> CoreState:
        """The state before a text, zeros [B, H]."""
        zeros = self.words.weight.new_zeros(batch, self.sizes.hidden)
        return CoreState(zeros, zeros)

    def forward(
        self, words: Int[Tensor, "T B"], state: CoreState, dropout: Dropout = lambda x: x
    ) -> tuple[Float[Tensor, "N E"], CoreState]:
        """Output embeddings [T * B, E] of the words after these, and the state after the last, without gradients.

        Dropout is applied to z_t and to what the decoder reads of h_t; the paper does not say where.
        """
        z = dropout(self.words(words) * self.sizes.embedding**0.5)
        never = torch.zeros(words.shape, dtype=torch.bool)  # no text begins within another
        if isinstance(self.core, MultiplicativeLSTMCore):  # it cannot mix precisions
            with torch.autocast(z.device.type, enabled=False):
                h, after, _ = self.core(z, never, state)
        else:
            h, after, _ = self.core(z, never, state)
        return self.decoder(dropout(h)).flatten(0, 1), CoreState(*(part.detach().float() for part in after))

    def loss(self, z: Float[Tensor, "N E"], targets: Int[Tensor, "T B"]) -> Float[Tensor, ""]:
        """The mean of -log p(target)."""
        return self.softmax.loss(z, self.words.weight, targets.flatten())

    def surprise(self, z: Float[Tensor, "N E"], targets: Int[Tensor, "T B"]) -> Float[Tensor, "T B"]:
        """-log p(target) of each, without gradients."""
        return self.softmax.surprise(z, self.words.weight, targets.flatten()).view(targets.shape)


def parameters(kind: Kind, sizes: Sizes) -> int:
    """How many numbers are learnt; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in LanguageModel(kind, sizes).parameters() if p.requires_grad)


def as_large(kind: Kind, sizes: Sizes, wanted: int) -> Sizes:
    """The sizes with a core as wide as brings the number of parameters closest to the one wanted."""

    def sized(hidden: int) -> Sizes:
        return replace(sizes, hidden=hidden)

    wide = bisect_left(range(wanted), wanted, lo=1, key=lambda hidden: parameters(kind, sized(hidden)))
    return min(map(sized, (wide - 1, wide)), key=lambda s: abs(parameters(kind, s) - wanted))
