"""Language models: sizes, segments, gradients."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.backends.mkldnn import flags as mkldnn

from impala_mi.reproductions.language_model.word_lstm import (
    KINDS,
    Kind,
    LanguageModel,
    LanguageModelSizes,
    match_parameters,
    model_parameters,
)
from tests.reproductions.language_model.small_models import SMALL


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_one_size(kind: Kind) -> None:
    sizes = LanguageModelSizes(40, 8, 30, 4)
    target = model_parameters("LSTM + MultEncDec", sizes)
    matched = match_parameters(kind, sizes, target)
    for width in (matched.hidden - 1, matched.hidden + 1):
        other = model_parameters(kind, replace(matched, hidden=width))
        assert abs(model_parameters(kind, matched) - target) < abs(other - target)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_segments_is_the_text(kind: Kind) -> None:
    model, words = LanguageModel(kind, SMALL), torch.randint(11, (9, 2))
    whole, end = model(words, model.initial_state(2))
    first, state = model(words[:5], model.initial_state(2))
    second, after = model(words[5:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(after, end)
    assert not end.cell.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns_also_in_bfloat16(kind: Kind) -> None:
    """As on a GPU, which casts in the same places; the LSTM itself only if the processor has it in bfloat16."""
    model, words = LanguageModel(kind, replace(SMALL, hidden=16)), torch.randint(11, (7, 3))
    for parameter in model.parameters():  # some start at zero
        nn.init.normal_(parameter, std=0.3) if parameter.requires_grad else None
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]

    try:
        with torch.autocast("cpu", torch.bfloat16):
            nn.LSTM(2, 2)(torch.zeros(1, 1, 2))
        in_bfloat16 = True
    except RuntimeError:
        in_bfloat16 = False

    def gradients(reduced: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        with mkldnn(enabled=in_bfloat16), torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            z, state = model(words, model.initial_state(3))
            loss = model.loss(z, words.roll(-1, 0))
        assert loss.dtype == state.cell.dtype == torch.float32
        return loss, list(torch.autograd.grad(loss, learnt))

    (loss, exact), (near, reduced) = gradients(False), gradients(True)
    torch.testing.assert_close(near, loss, rtol=0.02, atol=0)
    for gradient, other in zip(exact, reduced, strict=True):
        assert gradient.norm() > 0
        assert (gradient - other).norm() < 0.1 * gradient.norm()
