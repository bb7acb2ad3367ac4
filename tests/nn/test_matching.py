import re

import pytest
import torch

from impala_mi.config import AgentConfig
from impala_mi.errors import UserError
from impala_mi.nn.agent import Agent, meta_agent
from impala_mi.nn.heads import HEADS, Head
from impala_mi.nn.matching import TOLERANCE, _closest_width, make_head
from impala_mi.nn.meta import num_parameters, on_meta
from impala_mi.types import Spaces

P, K = 9, 30
SIZES = {"core_width": 256, "context_width": 32}
"""Those of the default configuration; P and K are DMLab-30's."""


def make(head: str, value_per_level: bool = False, **changes: object) -> Head:
    with on_meta():
        return make_head(AgentConfig(head=head, **SIZES | changes), P, K, value_per_level)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "value_per_level"), [("mi_task", False), ("mi_task", True), ("per_task", False)]
)
@pytest.mark.parametrize("head", HEADS)
def test_heads_get_the_number_of_parameters_of_another(head, target, value_per_level):
    wanted = num_parameters(make(target, value_per_level))
    got = num_parameters(make(head, value_per_level, match_parameters=target))
    assert abs(got - wanted) <= TOLERANCE * wanted
    plain = num_parameters(make(head, value_per_level))
    assert (got == plain) == (head == target) or abs(plain - wanted) <= TOLERANCE * wanted


@pytest.mark.parametrize("head", ["shared", "per_task"])
def test_a_head_without_context_gets_a_hidden_layer(head):
    sizes = {"core_width": 64, "context_width": 16, "conditioned": "policy"}
    module = make_head(AgentConfig(head=head, match_parameters="mi_task", **sizes), 3, 5, False)
    plain = Head(AgentConfig(head="mi_task", **sizes), 3, 5)
    assert abs(num_parameters(module) - num_parameters(plain)) <= TOLERANCE * num_parameters(plain)
    h, level = torch.randn(200, 64), torch.arange(200) % 5
    out = module(h, level)
    hidden = torch.relu(module.hidden[0](h))
    torch.testing.assert_close(out.logits, module.policy(hidden, level, None))
    torch.testing.assert_close(out.value, module.value(hidden, level, None).squeeze(-1))
    assert hidden.square().mean().item() == pytest.approx(1, rel=0.2)


def test_a_head_with_a_context_gets_another_width_of_it():
    head = make("film_context", match_parameters="mi_task")
    assert head.hidden is None
    width = head.config.context_width
    assert head.policy.layer.G.shape == (width, 256)
    assert num_parameters(head) == num_parameters(make("film_context", context_width=width))


def test_without_matching_heads_are_as_they_are():
    torch.manual_seed(1)
    plain = Head(AgentConfig(head="shared"), P, K)
    torch.manual_seed(1)
    unmatched = make_head(AgentConfig(head="shared"), P, K, False)
    assert [*unmatched.state_dict()] == [*plain.state_dict()]
    assert all(torch.equal(a, b) for a, b in zip(unmatched.parameters(), plain.parameters(), strict=True))


def test_what_is_refused():
    spaces = Spaces((24, 28, 3), "uint8", 3, 3, instructions=False)
    for changes, message in (
        ({"match_parameters": "mi"}, "agent.match_parameters='mi': no such entry; there are shared"),
        (
            {"head": "film_context", "match_parameters": "mi_task", "core_width": 32, "context_width": 8},
            "agent.match_parameters='mi_task': that head has 1,292 parameters; the closest that "
            "agent.head='film_context' comes is 1,379, with a context of width 7, which is not within 2%",
        ),
        (
            {"head": "film_task", "match_parameters": "shared"},
            "agent.match_parameters='shared': that head has 1,028 parameters; the closest",
        ),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            meta_agent(AgentConfig(**changes), spaces)


@pytest.mark.slow
def test_the_agent_is_matched():
    spaces = Spaces((24, 28, 3), "uint8", P, K, instructions=False)
    configs = [AgentConfig(head=head, match_parameters="mi_task") for head in ("mi_task", "low_rank_task")]
    agents = [Agent(config, spaces) for config in configs]
    one, other = (agent.num_parameters for agent in agents)
    assert one != other
    assert abs(one - other) < TOLERANCE * num_parameters(agents[0].head)


@pytest.mark.parametrize("target", [1, 7, 8, 100, 101, 12_345])
def test_the_closest_width_is_the_closest_of_all(target):
    def count(width: int) -> int:
        return 3 * width * width + 4 * width + 1

    best = min(range(1, 100), key=lambda width: abs(count(width) - target))
    assert _closest_width(count, target) == best
