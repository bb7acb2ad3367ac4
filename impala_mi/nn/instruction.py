"""Instruction encoder: an embedding of the words' hash buckets and an LSTM (IMPALA, section 5.3)."""

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
MAX_CACHED = 10_000
"""Embeddings that an acting encoder caches: 3 MB."""


class InstructionEncoder(nn.Module):
    """Encoder of tokens [T, B, L] to [T, B, 64]: the LSTM's output at the last word; zeros if there is none.

    Tokens lie in host memory whatever the device of the weights, because control flow depends on them;
    `Instructions` made from them beforehand lie on the device of the weights. Each distinct instruction is embedded
    once. In inference mode embeddings are cached until weights are loaded or a call records gradients.
    """

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BUCKETS, EMBEDDING)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING**-0.5)
        self.lstm = single_bias_lstm(EMBEDDING, WIDTH)
        self._cache: dict[bytes, Tensor] = {}
        self.register_load_state_dict_post_hook(_forget)

    def forward(self, tokens: Int[Tensor, "T B L"] | Instructions) -> Float[Tensor, "T B 64"]:
        """Embeddings [T, B, 64] of the instruction of each step."""
        if isinstance(tokens, Instructions):
            return F.embedding(tokens.per_step, self._embed(tokens))
        distinct, per_step = distinct_rows(tokens.numpy())
        if torch.is_inference_mode_enabled():
            embedded = self._embed_cached(distinct)
        else:
            self._cache.clear()
            embedded = self._embed(self._to_device(distinct))
        return F.embedding(torch.from_numpy(per_step).to(embedded.device, non_blocking=True), embedded)

    def _embed(self, distinct: Instructions) -> Float[Tensor, "S 64"]:
        out, _ = self.lstm(self.embedding(distinct.tokens))
        rows = torch.arange(len(distinct.last), device=out.device)
        return out[distinct.last, rows] * distinct.not_empty.unsqueeze(-1)

    def _to_device(self, rows: Int[np.ndarray, "S L"]) -> Instructions:
        """Instructions on the device of the weights, cut to the longest of them."""
        longest = max(int((rows != NO_TOKEN).sum(1).max()), 1)
        distinct = instructions(rows[:, :longest], np.zeros((0, 0), np.int64))
        return map_arrays(distinct, lambda tensor: tensor.to(self.embedding.weight.device, non_blocking=True))

    def _embed_cached(self, tokens: np.ndarray) -> Float[Tensor, "S 64"]:
        keys = [row.tobytes() for row in tokens]
        new = [i for i, key in enumerate(keys) if key not in self._cache]
        if len(self._cache) + len(new) > MAX_CACHED:
            self._cache.clear()
            new = list(range(len(keys)))
        if new:
            self._cache |= {
                keys[i]: row for i, row in zip(new, self._embed(self._to_device(tokens[new])), strict=True)
            }
        return torch.stack([self._cache[key] for key in keys])


def _forget(encoder: nn.Module, _: Any) -> None:
    assert isinstance(encoder, InstructionEncoder)
    encoder._cache.clear()


def instructions(rows: Int[np.ndarray, "S L"], per_step: Int[np.ndarray, "T B"]) -> Instructions:
    """`Instructions` in host memory, of distinct rows of tokens and the row of each step."""
    words = (rows != NO_TOKEN).sum(1)
    return Instructions(
        torch.from_numpy(np.ascontiguousarray(rows.clip(min=0).T.astype(np.int64))),
        torch.from_numpy((words - 1).clip(min=0)),
        torch.from_numpy(words > 0),
        torch.from_numpy(per_step),
    )


def distinct_rows(tokens: Int[np.ndarray, "T B L"]) -> tuple[Int[np.ndarray, "S L"], Int[np.ndarray, "T B"]]:
    """Distinct rows of tokens, and the row of each step.

    Instructions rarely change within a column, so only rows that differ from the step before are compared.
    """
    changed = np.ones(tokens.shape[:2], bool)
    changed[1:] = (tokens[1:] != tokens[:-1]).any(-1)
    times, columns = np.nonzero(changed)
    index: dict[bytes, int] = {}
    numbers = np.array([index.setdefault(row.tobytes(), len(index)) for row in tokens[times, columns]])
    # The step of the newest change in each column.
    last = np.maximum.accumulate(np.where(changed, np.arange(len(tokens))[:, None], 0))
    per_step = np.zeros(tokens.shape[:2], np.int64)
    per_step[times, columns] = numbers
    per_step = np.take_along_axis(per_step, last, 0)
    rows = np.frombuffer(b"".join(index), tokens.dtype).reshape(len(index), tokens.shape[2])
    return rows, per_step
