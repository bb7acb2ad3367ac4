"""Heads of a user's own whose modules keep an extra state beside their parameters."""

import pytest
import torch
from torch import nn

from impala_mi.actors.rollout import RolloutWorker
from impala_mi.analysis.acting import read_agent
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.learner.update import Counters, Learner
from impala_mi.nn.heads import HeadSpec
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import create
from impala_mi.training import preflight
from tests.tiny import tiny_config


class Counting(nn.Module):
    """Output layer with an extra state: a number."""

    def __init__(self, config, k, num_levels):
        super().__init__()
        self.linear, self.number = nn.Linear(config.core_width, k), torch.tensor([3.0])

    def forward(self, h, level, context):
        return self.linear(h)

    def get_extra_state(self):
        return self.number

    def set_extra_state(self, state):
        self.number = torch.as_tensor(state).clone()


class Listing(Counting):
    def get_extra_state(self):
        return {"laps": [1, 2]}


class Refusing(Counting):
    def set_extra_state(self, state):
        raise KeyError("laps")


class Forgetful(nn.Module):
    def __init__(self, config, k, num_levels):
        super().__init__()
        self.linear = nn.Linear(config.core_width, k)

    forward, get_extra_state = Counting.forward, lambda self: torch.zeros(2)


COUNTING, LISTING, REFUSING, FORGETFUL = map(HeadSpec, (Counting, Listing, Refusing, Forgetful))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("LISTING", r"get_extra_state returns a dict; only a tensor is saved"),
        ("REFUSING", r"_extra_state cannot be loaded again: .*laps"),
        ("FORGETFUL", r"_extra_state cannot be loaded again: .*Unexpected key"),
    ],
)
def test_what_is_no_tensor_or_cannot_be_loaded_is_refused_before_a_run(name, says):
    with pytest.raises(UserError, match=rf"^agent: head\.policy.*{says}"):
        preflight.check(tiny_config(f"agent.head={__name__}:{name}"))


@pytest.mark.slow
def test_tensors_are_saved_loaded_and_given_to_the_actors(tmp_path):
    config = tiny_config(f"run.root={tmp_path}", f"agent.head={__name__}:COUNTING")
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, 1, torch.device("cpu"))
    [layer] = [m for name, m in learner.agent.named_modules() if isinstance(m, Counting) and "policy" in name]
    layer.number = torch.tensor([7.0])
    [name] = [n for n in learner.agent.state_dict() if n.endswith("_extra_state") and "policy" in n]

    folder = create(config, "x")
    scores = {"returns": [[1.0]] * 5, "lengths": [[3]] * 5, "episodes": [1] * 5}
    run = {"scores": scores, "counts": [{}] * 5, "time_s": 1.0, "discarded": 0, "starts": 0}
    checkpoints.save(folder.checkpoints, learner.state(), run, {"env_frames": 0, "updates": 0, "score": None}, 1)
    assert read_agent(str(folder.path), "last").network.state_dict()[name] == 7

    resumed = Learner(config, suite.spaces, 1, torch.device("cpu"))
    resumed.load_state(checkpoints.load(folder.checkpoints).learner)
    assert resumed.agent.state_dict()[name] == 7
    assert resumed.counters == Counters()

    actor = RolloutWorker(config, suite, 0)
    actor.load(learner.weights(), 1)
    assert actor._agent.state_dict()[name] == 7
    actor.close()
