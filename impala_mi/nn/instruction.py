"""Instructions: an embedding of the words' hash buckets and an LSTM (IMPALA, section 5.3)."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from impala_mi.nn.core import single_bias_lstm
from impala_mi.tokenizer import BUCKETS
from impala_mi.types import NO_TOKEN, Instructions, map_arrays

EMBEDDING = 20
WIDTH = 64
MOST_KNOWN = 10_000
"""Embeddings that an acting encoder remembers: 3 MB."""


class InstructionEncoder(nn.Module):
    """[T, B, L] tokens to [T, B, 64]: the LSTM's output at the last word; zeros for an empty instruction.

    Tokens are in the host's memory, wherever the weights are: they decide what is computed. `Instructions`, made of
    them before, are where the weights are. Each distinct instruction is embedded once. In inference mode embeddings
    are remembered from call to call, until weights are loaded or a call records gradients.
    """

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BUCKETS, EMBEDDING)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING**-0.5)
        self.lstm = single_bias_lstm(EMBEDDING, WIDTH)
        self._known: dict[bytes, Tensor] = {}
        self.register_load_state_dict_post_hook(_forget)

    def forward(self, tokens: Int[Tensor, "T B L"] | Instructions) -> Float[Tensor, "T B 64"]:
        """See the class."""
        if isinstance(tokens, Instructions):
            return F.embedding(tokens.which, self._embed(tokens))
        distinct, which = distinct_rows(tokens.numpy())
        if torch.is_inference_mode_enabled():
            embedded = self._recall(distinct)
        else:
            self._known.clear()
            embedded = self._embed(self._there(distinct))
        return F.embedding(torch.from_numpy(which).to(embedded.device, non_blocking=True), embedded)

    def _embed(self, them: Instructions) -> Float[Tensor, "S 64"]:
        out, _ = self.lstm(self.embedding(them.tokens))
        return out[them.last, torch.arange(len(them.last), device=out.device)] * them.there.unsqueeze(-1)

    def _there(self, rows: Int[np.ndarray, "S L"]) -> Instructions:
        """Where the weights are, without the columns that no instruction reaches."""
        longest = max(int((rows != NO_TOKEN).sum(1).max()), 1)
        them = instructions(rows[:, :longest], np.zeros((0, 0), np.int64))
        return map_arrays(them, lambda tensor: tensor.to(self.embedding.weight.device, non_blocking=True))

    def _recall(self, tokens: np.ndarray) -> Float[Tensor, "S 64"]:
        keys = [row.tobytes() for row in tokens]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if len(self._known) + len(new) > MOST_KNOWN:
            self._known.clear()
            new = list(range(len(keys)))
        if new:
            self._known |= {keys[i]: row for i, row in zip(new, self._embed(self._there(tokens[new])), strict=True)}
        return torch.stack([self._known[key] for key in keys])


def _forget(encoder: nn.Module, _: Any) -> None:
    assert isinstance(encoder, InstructionEncoder)
    encoder._known.clear()


def instructions(rows: Int[np.ndarray, "S L"], which: Int[np.ndarray, "T B"]) -> Instructions:
    """From distinct instructions and which of them each step has; in the host's memory."""
    words = (rows != NO_TOKEN).sum(1)
    return Instructions(
        torch.from_numpy(np.ascontiguousarray(rows.clip(min=0).T.astype(np.int64))),
        torch.from_numpy((words - 1).clip(min=0)),
        torch.from_numpy(words > 0),
        torch.from_numpy(which),
    )


def distinct_rows(tokens: Int[np.ndarray, "T B L"]) -> tuple[Int[np.ndarray, "S L"], Int[np.ndarray, "T B"]]:
    """Distinct instructions, and which of them each step has.

    Instructions rarely change within a column, so that only rows unlike the one before are looked at.
    """
    changed = np.ones(tokens.shape[:2], bool)
    changed[1:] = (tokens[1:] != tokens[:-1]).any(-1)
    times, columns = np.nonzero(changed)
    index: dict[bytes, int] = {}
    numbers = np.array([index.setdefault(row.tobytes(), len(index)) for row in tokens[times, columns]])
    # The change that a step goes back to: the newest in its column.
    last = np.maximum.accumulate(np.where(changed, np.arange(len(tokens))[:, None], 0))
    which = np.zeros(tokens.shape[:2], np.int64)
    which[times, columns] = numbers
    which = np.take_along_axis(which, last, 0)
    rows = np.frombuffer(b"".join(index), tokens.dtype).reshape(len(index), tokens.shape[2])
    return rows, which
