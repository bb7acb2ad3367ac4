"""Instructions: an embedding of the words' hash buckets and an LSTM (IMPALA, section 5.3)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from impala_mi.nn.core import single_bias_lstm
from impala_mi.types import NO_TOKEN
from impala_mi.words import BUCKETS

EMBEDDING = 20
WIDTH = 64


class InstructionEncoder(nn.Module):
    """[N, L] tokens to [N, 64]: the LSTM's output at the last word; zeros for an empty instruction."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BUCKETS, EMBEDDING)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING**-0.5)
        self.lstm = single_bias_lstm(EMBEDDING, WIDTH)

    def forward(self, tokens: Int[Tensor, "N L"]) -> Float[Tensor, "N 64"]:
        """Distinct instructions are embedded once and shared between rows."""
        distinct, row = torch.unique(tokens, dim=0, return_inverse=True)
        words = (distinct != NO_TOKEN).sum(1)
        longest = max(int(words.max()), 1)
        out, _ = self.lstm(self.embedding(distinct[:, :longest].clamp(min=0).T))
        last = out[(words - 1).clamp(min=0), torch.arange(len(words), device=words.device)]
        return (last * (words > 0).unsqueeze(-1))[row]
