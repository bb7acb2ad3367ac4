"""Selectivity and ablations of single directions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from impala_mi.analysis.recording import Recording
from impala_mi.analysis.units import (
    Ablations,
    ablate,
    agreement,
    count,
    draw_drops,
    episodes_played,
    selectivity,
    without,
)
from impala_mi.errors import UserError
from impala_mi.nn.agent import Agent
from tests.tiny import tiny_config


@pytest.fixture
def agent(config, suite):
    return Agent(config.agent, suite.spaces).eval()


def heads(agent):
    h, level = torch.randn(6, 32), torch.arange(6) % 5
    return h, level, agent.head.context(h, level)


def test_selectivity_is_one_for_a_units_only_level_and_nought_for_none():
    level = np.repeat([0, 1, 2], 4)
    context = np.zeros((12, 4), np.float32)
    context[level == 1, 0] = 3.0
    context[:, 1] = 2.0
    context[level == 2, 2] = 3.0
    context[level != 2, 2] = 1.0
    data = Recording(["a", "b", "c"], level, level, level, np.array([""] * 12), None, {"context": context})
    preferred, strength = selectivity(data)
    assert preferred[[0, 2]].tolist() == [1, 2]
    assert strength.tolist() == pytest.approx([1, 0, 0.5, 0])
    alone = Recording(["a"], level * 0, level, level, np.array([""] * 12), None, {"context": context + 1})
    assert (selectivity(alone)[1] == 0).all()


def test_a_unit_is_held_at_nought_for_as_long_as_it_is_asked(agent):
    h, level, whole = heads(agent)
    with without(agent, "context", 3):
        context = agent.head.context(h, level)
    assert (context[:, 3] == 0).all()
    assert torch.equal(context[:, :3], whole[:, :3])
    assert torch.equal(agent.head.context(h, level), whole)


def test_a_row_without_generated_weights_has_its_bias_alone(agent):
    h, level, context = heads(agent)
    whole = agent.head(h, level).logits
    with without(agent, "rows", 1):
        logits = agent.head(h, level).logits
    bias = agent.head.policy.layer.generate(context).bias
    assert torch.allclose(logits[:, 1], bias[:, 1], atol=1e-6)
    assert torch.equal(logits[:, [0, 2]], whole[:, [0, 2]])


@pytest.mark.parametrize(
    ("override", "ablated", "says"),
    [
        ("agent.head=shared", "context", "generates no weights"),
        ("agent.conditioned=value", "rows", "does not depend"),
        ("agent.conditioned=value", "context", "does not depend"),
    ],
)
def test_what_a_head_does_not_have(suite, override, ablated, says):
    agent = Agent(tiny_config(override).agent, suite.spaces).eval()
    with pytest.raises(UserError, match=says), without(agent, ablated, 0):
        pass


def test_what_matters_drops_where_it_matters(agent, suite):
    """Two units say left on one level and right on another. Without one its level is lost, the others are not."""
    for p in agent.parameters():
        torch.nn.init.zeros_(p)
    layer = agent.head.policy.layer
    agent.head.context = torch.nn.Module()
    left, right = (suite.level_names.index(name) for name in ("always_left", "always_right"))
    agent.head.context.forward = lambda h, level: torch.nn.functional.one_hot(level, 8).float()
    with torch.no_grad():
        layer.U[left] = torch.tensor([50.0, 0.0, 0.0])
        layer.U[right] = torch.tensor([0.0, 0.0, 50.0])
    played = []
    ablations = ablate(agent, suite, "context", [left, right, 7], 12, 1, played.append)
    assert len(played) == episodes_played(5, 3, 12) == (4 + 3) * 12 * 5
    assert ablations.normalised
    important = np.zeros((5, 3), bool)
    important[left, 0] = important[right, 1] = True
    assert (ablations.drop[important] > 50).all()
    random = [suite.level_names.index(name) for name in ("catch", "memory", "language")]
    certain = np.ones((5, 3), bool)
    certain[random] = False  # their answers are drawn, and guessed
    assert (ablations.drop[~important & certain] == 0).all()
    assert (ablations.real == important).all()
    assert count(agent, "context") == 8
    assert count(agent, "rows") == 3


def test_agreement_and_picture(tmp_path):
    ablations = Ablations(["a", "b", "c"], np.array([[0.0, 1.0, -5.0]]), np.array([[0.9, 0.04, 0.001]]), True)
    assert ablations.real.tolist() == [[False, False, True]]  # of three tests, 0.04 is none
    assert agreement(np.array([0.1, 0.2, 0.9]), replace(ablations, normalised=False)) is None
    assert agreement(np.array([0.1, 0.2, 0.9]), ablations) == pytest.approx(1)
    assert agreement(np.array([0.5, 0.5, 0.5]), ablations) is None
    assert agreement(np.array([0.5, 0.6]), ablations) is None
    draw_drops(ablations, ["level"], [0, None, 0], "title", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 3000
