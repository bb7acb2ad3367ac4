"""FiLM of the torso's features by the task or the instruction."""

import pytest
import torch

from impala_mi.config import AgentConfig
from impala_mi.errors import UserError
from impala_mi.nn.agent import Agent, meta_agent
from impala_mi.types import AgentInput, Spaces
from tests.nn.test_agent import SMALL, inputs

BY = pytest.mark.parametrize("by", ["task", "instruction"])


def make(by: str, random: bool = True, **changes: object) -> Agent:
    torch.manual_seed(0)
    agent = Agent(AgentConfig(head="shared", core_width=24, torso_conditioning=by, **changes), SMALL).eval()
    if random:
        for p in agent.torso_film.parameters():
            torch.nn.init.normal_(p)
    return agent


@BY
def test_it_starts_as_the_identity(by):
    plain, conditioned, x = make("none", False), make(by, False), inputs(SMALL, 3, 4)
    film = {"torso_film.G", "torso_film.U"}
    assert conditioned.state_dict().keys() - plain.state_dict().keys() == film
    a, b = (agent(x, agent.initial_state(4)) for agent in (plain, conditioned))
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.value, b.value)
    assert next(plain.parameters()) is plain.torso.conv1.weight  # the torso comes first, as ranks expect
    assert next(conditioned.parameters()) is conditioned.torso.conv1.weight


@BY
def test_features_are_scaled_and_shifted(by):
    agent, x, seen = make(by), inputs(SMALL, 3, 4), []
    agent.core.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    agent(x, agent.initial_state(4))
    z = torch.eye(3)[x.level] if by == "task" else agent.instruction(x.tokens)
    features = agent.torso(x.frame)
    film = agent.torso_film
    torch.testing.assert_close(seen[0][..., :256], features * (1 + z @ film.G) + z @ film.U)


@BY
def test_acting_computes_what_the_learner_computes(by):
    agent, x = make(by), inputs(SMALL, 6, 5)
    whole, state = agent(x, agent.initial_state(5)), agent.initial_state(5)
    for t in range(6):
        step = AgentInput(*(a[t].numpy() for a in x))
        action = agent.act(step, state, torch.Generator().manual_seed(t))
        torch.testing.assert_close(action.logits, whole.logits[t], rtol=1e-4, atol=1e-4)
        state = action.state


@BY
def test_acting_in_bfloat16_keeps_the_conditioning_in_float32(by):
    agent, x = make(by).act_in(torch.bfloat16), inputs(SMALL, 1, 5)
    assert {p.dtype for p in agent.torso_film.parameters()} == {torch.float32}
    action = agent.act(AgentInput(*(a[0].numpy() for a in x)), agent.initial_state(5), torch.Generator())
    assert action.logits.isfinite().all()


def test_only_a_torso_of_the_task_needs_it():
    x = inputs(SMALL, 2, 4)._replace(level=None)
    agent = make("instruction")
    assert agent(x, agent.initial_state(4)).logits.isfinite().all()
    agent = make("task")
    with pytest.raises(ValueError, match="conditioned on the task cannot act without task IDs"):
        agent(x, agent.initial_state(4))


def test_what_is_refused():
    spaces = Spaces((24, 28, 3), "uint8", 4, 3, instructions=False)
    with pytest.raises(
        UserError, match=r"agent\.torso_conditioning='instruction': the levels of this suite give no"
    ):
        meta_agent(AgentConfig(torso_conditioning="instruction"), spaces)
