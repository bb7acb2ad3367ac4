"""The language models' decoder and softmaxes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from impala_mi.nn import language
from impala_mi.nn.language import AdaptiveSoftmax, MultiplicativeDecoder, TiedSoftmax


def test_the_decoder_is_the_full_form() -> None:
    decoder, h = MultiplicativeDecoder(5, 3, 4), torch.randn(2, 7, 5)
    nn.init.normal_(decoder.layer.U)
    generated = decoder.layer.generate(torch.relu(decoder.context(h)))
    wanted = (generated.weight @ h.unsqueeze(-1)).squeeze(-1) + generated.bias
    torch.testing.assert_close(decoder(h), wanted)


@pytest.mark.slow
@given(rows=st.integers(1, 9), chunk=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_softmax_in_chunks_is_cross_entropy(rows: int, chunk: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    z, words, bias = (
        torch.randn(*shape, dtype=torch.float64, generator=draw, requires_grad=True)
        for shape in ((rows, 3), (7, 3), (7,))
    )
    targets = torch.randint(7, (rows,), generator=draw)
    softmax = TiedSoftmax(7)
    softmax.bias = nn.Parameter(bias.detach())
    wanted = F.cross_entropy(z @ words.T + bias, targets, reduction="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "CHUNK_ROWS", chunk)
        loss = softmax.loss(z, words, targets)
        torch.testing.assert_close(softmax.surprise(z, words, targets), wanted)
    torch.testing.assert_close(loss, wanted.mean())
    gradients = torch.autograd.grad(3 * loss, (z, words, softmax.bias))
    torch.testing.assert_close(gradients, torch.autograd.grad(3 * wanted.mean(), (z, words, bias)))


def test_an_adaptive_softmax_is_a_distribution() -> None:
    softmax, z = AdaptiveSoftmax(60, 16), torch.randn(2, 16)
    every = torch.arange(60).repeat_interleave(2)
    total = (-softmax.surprise(z.repeat(60, 1), torch.empty(0, 16), every)).exp().view(60, 2).sum(0)
    torch.testing.assert_close(total, torch.ones(2))
