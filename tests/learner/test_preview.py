"""A look at what is learnt from."""

import numpy as np
import pytest
import torch

from impala_mi.learner.preview import FRAMES, one_column, preview
from impala_mi.nn.agent import Agent
from impala_mi.nn.core import lstm_state
from impala_mi.types import Spaces, transitions_buffer
from tests.tiny import tiny_config


@pytest.fixture
def unroll(config, suite):
    made = transitions_buffer(
        suite.spaces, 20, 3, config.agent.instruction_tokens, lstm_state(3, config.agent.core_width, torch.zeros(0))
    )
    made.inputs.frame[:] = np.arange(21).reshape(21, 1, 1, 1, 1)
    made.inputs.level[:, 0] = 2
    made.inputs.first[0] = True
    return made


def test_a_column_is_a_copy(unroll):
    column = one_column(unroll, 0)
    assert column.inputs.frame.shape == (21, 1, 5, 5, 1)
    assert (column.action.shape, column.state.hidden.shape, column.final_observations.time.shape) == (
        (20, 1),
        (1, 32),
        (0,),
    )
    assert one_column(unroll, 2).inputs.level[0, 0] == 0
    unroll.inputs.frame[:] = 0
    assert column.inputs.frame.max() == 20


@pytest.mark.parametrize(
    ("head", "widths"),
    [
        ("mi_context", {"context": 8, "policy": 96, "value": 32}),
        ("mi_task", {"context": 8, "policy": 96, "value": 32}),
        ("mi_context agent.conditioned=value", {"context": 8, "value": 32}),
        ("shared", {}),
        ("per_task", {}),
    ],
)
def test_a_sample_is_what_the_head_makes_of_it(suite, unroll, head, widths):
    agent = Agent(tiny_config(*f"agent.head={head}".split()).agent, suite.spaces)
    before = torch.get_rng_state()
    found = preview(agent, one_column(unroll, 0), torch.device("cpu"), pad_to_buckets=False)
    assert (torch.get_rng_state() == before).all()  # training goes on as without
    assert found.level == 2
    assert found.frames.shape == (FRAMES, 5, 5, 1)
    assert found.frames[0].max() == 0
    assert found.frames[-1].min() == 20
    assert {kind: vectors.shape for kind, vectors in found.vectors.items()} == {
        k: (21, w) for k, w in widths.items()
    }
    assert all(p.grad is None for p in agent.parameters())
    padded = preview(agent, one_column(unroll, 0), torch.device("cpu"), pad_to_buckets=True)
    assert all(np.allclose(padded.vectors[k], v, atol=1e-6) for k, v in found.vectors.items())


def test_vectors_are_no_pictures(config):
    spaces = Spaces((4,), "float32", 2, 1, False)
    agent = Agent(config.agent, spaces)
    made = transitions_buffer(spaces, 6, 2, 4, agent.initial_state(2))
    found = preview(agent, one_column(made, 1), torch.device("cpu"), pad_to_buckets=False)
    assert found.frames is None
    assert found.vectors["context"].shape == (7, 8)
