import copy

import pytest
import torch
from torch.nn import functional as F

from impala_mi.config import AgentConfig
from impala_mi.nn import packed
from impala_mi.nn.agent import Agent
from impala_mi.nn.torsos import make_torso
from impala_mi.types import AgentInput
from tests.nn.test_agent import SMALL, inputs

pytestmark = pytest.mark.skipif(not packed._available(), reason="this CPU does not multiply bfloat16")


def error(found, exact):
    return ((found.float() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("relu", [True, False])
def test_a_linear_layer_is_the_same_for_any_number_of_rows(relu):
    layer = torch.nn.Linear(37, 19).bfloat16()
    with torch.inference_mode():
        made = packed.linear(layer.weight, layer.bias, 32, relu)
        for rows in (32, 1, 50):
            x = torch.randn(rows, 37, dtype=torch.bfloat16)
            exact = F.linear(x.float(), layer.weight.float(), layer.bias.float())
            assert error(made(x), exact.relu() if relu else exact) < 0.005


@pytest.mark.parametrize("width", [96, 27])
def test_a_convolution_of_bytes_rounds_weights_alone(width):
    conv = torch.nn.Conv2d(3, 5, 8, 4)
    frame = torch.randint(0, 256, (4, 24, width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    with torch.inference_mode():
        conv.weight[2] = 0  # a channel without a scale
        made = packed.convolution_of_bytes(conv.weight, conv.bias, conv.stride, frame.shape)
        exact = conv(frame / 255).relu()
        found = made(frame)
        assert found.dtype == torch.bfloat16
        assert error(found, exact) < 0.02
        torch.testing.assert_close(found[:, 2].float(), exact[:, 2], atol=0.002, rtol=0.01)
        steps = conv.weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-9) / 127
        conv.weight.copy_((conv.weight / steps).round() * steps)
        assert error(found, conv(frame / 255).relu()) < 0.003, "what is left is bfloat16's"


@pytest.mark.parametrize("shape", [(72, 96, 3), (72, 94, 3), (20, 21, 1)])
def test_a_torso_that_acts_is_near(shape):
    torso = make_torso("shallow", shape)
    rough = copy.deepcopy(torso).bfloat16()
    with torch.inference_mode():
        for batch in (4, 1, 7):
            frame = torch.randint(0, 256, (1, batch, *shape), dtype=torch.uint8)
            assert error(rough(frame), torso(frame)) < 0.02
        assert rough.packed is not None
    frame = torch.zeros(1, 2, *shape, dtype=torch.uint8)
    assert rough(frame).requires_grad
    assert rough.packed is None, "who records gradients is going to change the weights"


def test_loaded_weights_act_at_once():
    config = AgentConfig(core_width=64)
    first, second = (Agent(config, SMALL).eval() for _ in range(2))
    actor = copy.deepcopy(first).act_in(torch.bfloat16)
    fresh = copy.deepcopy(second).act_in(torch.bfloat16)
    step, zeros = AgentInput(*(a[:1] for a in inputs(SMALL, 1, 5))), first.initial_state(5)
    with torch.inference_mode():
        before = actor(step, zeros)
        assert actor.torso.packed is not None
        assert actor.core.packed is not None
        actor.load_weights({k: v.numpy() for k, v in second.state_dict().items()})
        after = actor(step, zeros)
        assert torch.equal(after.logits, fresh(step, zeros).logits)
        assert not torch.equal(after.logits, before.logits)
