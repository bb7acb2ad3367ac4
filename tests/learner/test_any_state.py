"""A core whose recurrent state is nested tuples of other shapes, through everything that carries a state."""

import numpy as np
import pytest
import torch
from torch import nn

from impala_mi.actors.inference import Inference
from impala_mi.envs.suites import make_suite
from impala_mi.learner.batching import stack
from impala_mi.learner.data_parallel import split
from impala_mi.learner.preview import one_column, preview
from impala_mi.learner.update import Learner
from impala_mi.nn.agent import CORES
from impala_mi.nn.core import CoreOutput
from impala_mi.types import leaves, map_arrays
from tests.tiny import started, tiny_config

CPU = torch.device("cpu")
MEMORY = 3


class WindowCore(nn.Module):
    """The last three inputs of the episode, and how many there are: state (window [B, 3, D], (count [B],))."""

    def __init__(self, inputs, width):
        super().__init__()
        self.linear = nn.Linear(MEMORY * inputs, width)
        self.inputs = inputs

    def initial_state(self, batch, like):
        return like.new_zeros(batch, MEMORY, self.inputs), (like.new_zeros(batch),)

    def forward(self, x, first, state):
        before, outputs = [], []
        window, (count,) = state
        for t in range(len(x)):
            before.append((window, (count,)))
            window = window.masked_fill(first[t, :, None, None], 0)
            count = count.masked_fill(first[t], 0) + 1
            window = torch.cat([window[:, 1:], x[t, :, None]], 1)
            outputs.append(torch.relu(self.linear(window.flatten(1))) / count.clamp(max=MEMORY).unsqueeze(-1))

        def states_before(times, columns):
            pairs = [
                map_arrays(before[t], lambda a, b=b: a[b])
                for t, b in zip(times.tolist(), columns.tolist(), strict=True)
            ]
            windows, counts = zip(*pairs, strict=True)
            return torch.stack(windows), (torch.stack([count for (count,) in counts]),)

        return CoreOutput(torch.stack(outputs), (window, (count,)), states_before)


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(CORES, "window", WindowCore)
    return tiny_config(
        "agent.core=window", "env.suite=tests.games:counting", "actors.envs=4", "learner.batch_size=8"
    )


def copied(data):
    return map_arrays(data, np.array)


@pytest.mark.slow
@pytest.mark.parametrize("central", [False, True])
def test_actors_learner_and_previews_take_any_state(config, central):
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, 1, CPU)
    worker = started(config, suite, 0, [0])
    worker.load(learner.weights(), 0)
    inference = Inference(config, suite.spaces, CPU, seed=1)
    inference.load(learner.weights(), 0)
    infer = (lambda request: inference([request])[0]) if central else None
    rollouts = [copied(worker.collect(infer).data) for _ in range(4)]
    worker.close()
    for rollout in rollouts:
        window, (count,) = rollout.state
        assert (window.shape[:2], count.shape) == ((4, MEMORY), (4,))
        batch = stack([rollout])
        with torch.no_grad():  # the recorded states give the learner the actors' logits
            logits = learner.agent(batch.inputs, batch.state).logits[:-1]
        torch.testing.assert_close(logits, batch.logits, rtol=1e-4, atol=1e-5)
    assert rollouts[2].state[1][0].max() > 1  # states go on from rollout to rollout

    batch = stack(rollouts[2:])
    for shard, rollout in zip(split(batch, 2), rollouts[2:], strict=True):
        for part, whole in zip(leaves(shard.state), leaves(rollout.state), strict=True):
            np.testing.assert_array_equal(part, whole)
    assert len(batch.final_observations.time)  # their values need the state at the end of an episode
    before = learner.agent.core.linear.weight.detach().clone()
    assert np.isfinite(list(learner.update(batch).values())).all()
    assert not torch.equal(learner.agent.core.linear.weight, before)

    column = one_column(rollouts[3], 1)
    assert [part.shape[0] for part in leaves(column.state)] == [1, 1]
    assert preview(learner.agent, column, CPU, pad_to_buckets=False).vectors["context"].shape == (8, 8)


@pytest.mark.slow
def test_final_values_continue_any_state(config):
    """V of a final observation is one more step of its own episode."""
    from impala_mi.learner.update import final_values

    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, 1, CPU)
    worker = started(config, suite, 0, [0])
    worker.load(learner.weights(), 0)
    worker.collect()
    batch = stack([copied(worker.collect().data)])
    worker.close()
    finals, out = batch.final_observations, learner.agent(batch.inputs, batch.state)
    values = final_values(learner.agent, out, batch, finals.time, finals.column)
    assert len(values)
    for i, (t, b) in enumerate(zip(finals.time.tolist(), finals.column.tolist(), strict=True)):
        x = map_arrays(batch.inputs, lambda a, t=t, b=b: a[: t + 2, b : b + 1].clone())
        x.frame[t + 1, 0], x.tokens[t + 1, 0] = finals.frame[i], finals.tokens[i]
        x.first[t + 1], x.last_action[t + 1] = False, batch.action[t, b]
        x.last_reward[t + 1] = batch.reward[t, b]
        state = map_arrays(batch.state, lambda part, b=b: part[b : b + 1])
        torch.testing.assert_close(learner.agent(x, state).value[t + 1, 0], values[i])
