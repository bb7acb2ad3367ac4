"""Decoders of language models: a core's output to probabilities of words (paper, section 8)."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from impala_mi.nn.multiplicative import Multiplicative
from impala_mi.nn.precision import compute_dtype

CHUNK_ROWS = 128
CHUNK_LOGITS = 2**27
"""Logits that are held at a time on a GPU: half a GB. A CPU takes CHUNK_ROWS rows, which stay in its cache."""


class MultiplicativeDecoder(nn.Module):
    """Output embedding M(h, c), full form, of h and its own context c = relu(W_3 h + b)."""

    def __init__(self, hidden: int, context: int, embedding: int) -> None:
        super().__init__()
        self.context = nn.Linear(hidden, context)
        self.layer = Multiplicative(hidden, context, embedding)

    def forward(self, h: Float[Tensor, "*d H"]) -> Float[Tensor, "*d E"]:
        """[..., E]."""
        return self.layer(h, torch.relu(self.context(h)))


class TiedSoftmax(nn.Module):
    """softmax(z W^T + b_2) over all V words, W the input embeddings; exact, a chunk of rows at a time."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def loss(
        self, z: Float[Tensor, "N E"], words: Float[Tensor, "V E"], targets: Int[Tensor, " N"]
    ) -> Float[Tensor, ""]:
        """The mean of -log p(target), in float32; with it its gradients, so that no logits are kept."""
        return _MeanCrossEntropy.apply(z.to(compute_dtype(words)), words, self.bias, targets)

    def surprise(
        self, z: Float[Tensor, "N E"], words: Float[Tensor, "V E"], targets: Int[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        """-log p(target) of each row, without gradients."""
        rows = _rows(words)
        with torch.no_grad():
            return torch.cat(
                [
                    -_log_softmax(part, words, self.bias).gather(1, target.unsqueeze(1)).squeeze(1)
                    for part, target in zip(z.split(rows), targets.split(rows), strict=True)
                ]
            )


def _rows(words: Tensor) -> int:
    return max(CHUNK_ROWS, CHUNK_LOGITS // len(words)) if words.is_cuda else CHUNK_ROWS


def _log_softmax(z: Tensor, words: Tensor, bias: Tensor) -> Tensor:
    """[N, V]; float32 at least."""
    logits = torch.addmm(bias.to(z.dtype), z, words.to(z.dtype).T)
    return torch.log_softmax(logits, 1, dtype=torch.promote_types(z.dtype, torch.float32))


class _MeanCrossEntropy(torch.autograd.Function):
    """Gradients are computed beside the loss: a chunk's logits are there once and then gone."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, words: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        """The mean over rows."""
        rows, cast = _rows(words), words.to(z.dtype)
        d_z, d_words, d_bias = torch.empty_like(z), torch.zeros_like(words), torch.zeros_like(bias)
        total = torch.zeros((), dtype=bias.dtype, device=z.device)
        for part, target, d_part in zip(z.split(rows), targets.split(rows), d_z.split(rows), strict=True):
            log_p, index = _log_softmax(part, cast, bias), target.unsqueeze(1)
            total -= log_p.gather(1, index).sum()
            d_logits = log_p.exp_()
            d_logits.scatter_add_(1, index, d_logits.new_full((), -1).expand(index.shape))
            d_bias += d_logits.sum(0)
            d_logits = d_logits.to(z.dtype)
            torch.mm(d_logits, cast, out=d_part)
            d_words += d_logits.T @ part
        ctx.save_for_backward(d_z, d_words, d_bias)
        ctx.count = len(z)
        return total / len(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mean: Tensor) -> tuple[Tensor | None, ...]:
        """The mean's, from the sum's."""
        each = d_mean / ctx.count
        d_z, d_words, d_bias = ctx.saved_tensors
        return d_z * each.to(d_z.dtype), d_words * each, d_bias * each, None


class AdaptiveSoftmax(nn.Module):
    """An adaptive softmax (Grave et al., 2017) in the place of `TiedSoftmax`: faster, and another model.

    Its output embeddings are its own, not the input's, and narrower for rare words. Words are numbered by
    falling frequency; the most frequent 13th are in the head, another 6th in the first tail.
    """

    def __init__(self, vocabulary: int, embedding: int) -> None:
        super().__init__()
        cutoffs = [vocabulary // 13, vocabulary // 4]  # 20,000 and 67,000 of WikiText-103
        self.layer = nn.AdaptiveLogSoftmaxWithLoss(embedding, vocabulary, cutoffs)

    def loss(
        self, z: Float[Tensor, "N E"], words: Float[Tensor, "V E"], targets: Int[Tensor, " N"]
    ) -> Float[Tensor, ""]:
        """The mean of -log p(target), in float32."""
        return self.surprise(z, words, targets).mean()

    def surprise(
        self, z: Float[Tensor, "N E"], words: Float[Tensor, "V E"], targets: Int[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        """-log p(target) of each row."""
        with torch.autocast(z.device.type, enabled=False):  # the layer cannot mix precisions
            return -self.layer(z.float(), targets).output
