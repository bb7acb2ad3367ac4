import threading
import time

import numpy as np
import pytest
import torch

from impala_mi.actors.inference import Batcher, Inference, InferenceLost, Reply, Request
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.learner.batching import stack
from impala_mi.learner.update import Learner
from tests.actors.test_rollout import copied
from tests.tiny import started, tiny_config

CPU = torch.device("cpu")


def central(*overrides):
    """A learner, a rollout of ten games in two groups, and who acts for it; FiLM, if any, is not the identity."""
    config = tiny_config("actors.inference=central", "actors.envs=10", "learner.batch_size=10", *overrides)
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, 1, CPU)
    if learner.agent.torso_film is not None:
        for p in learner.agent.torso_film.parameters():
            torch.nn.init.normal_(p)
    inference = Inference(config, suite.spaces, CPU, seed=3)
    inference.load(learner.weights(), 0)
    return learner, started(config, suite, 0, [0]), inference


def relearnt(learner, data):
    """Logits that the learner gives the steps of an unroll."""
    batch = stack([data])
    with torch.no_grad():
        return learner.agent(batch.inputs, batch.state).logits[:-1], batch


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", ["none", "task", "instruction"])
def test_central_logits_are_learner_logits(conditioning):
    learner, rollout, inference = central(f"agent.torso_conditioning={conditioning}")
    infer = Batcher(inference, enough=2, wait_s=0.01)
    for i in range(5):
        unroll = rollout.collect(infer)
        logits, batch = relearnt(learner, unroll.data)
        torch.testing.assert_close(logits, batch.logits, rtol=1e-4, atol=1e-5)
        assert bool(batch.state.hidden[0].any()) == bool(batch.state.hidden[5].any()) == (i > 0)
        assert unroll.info.version == 0
    rollout.close()


def test_rows_of_unrolls_follow_each_other_and_actions_are_those_of_the_replies():
    _, rollout, inference = central()
    replies = {0: [], 1: []}

    def infer(request):
        (reply,) = inference([request])
        replies[request.group[1]].append(reply.action.copy())
        return reply

    before = copied(rollout.collect(infer).data)
    after = copied(rollout.collect(infer).data)
    rollout.close()
    for a, b in zip(before.inputs, after.inputs, strict=True):
        np.testing.assert_array_equal(a[-1], b[0])
    got = np.concatenate([before.action, after.action])
    np.testing.assert_array_equal(got, np.concatenate([np.stack(replies[0]), np.stack(replies[1])], 1))


@pytest.mark.slow
def test_an_unroll_that_lost_its_inference_begins_again_where_it_got_to():
    """The games are not started anew, and the state that is recorded is the new process's."""
    learner, rollout, inference = central()
    rollout.collect(lambda request: inference([request])[0])
    asked, seen = {0: 0, 1: 0}, {}

    def dies(request):
        group = request.group[1]
        asked[group] += 1
        if asked[group] > (3 if group == 0 else 5):
            seen[group] = tuple(a.copy() for a in request.inputs)
            raise InferenceLost("gone")
        return inference([request])[0]

    with pytest.raises(InferenceLost):
        rollout.collect(dies)
    other = Inference(rollout._config, rollout._suite.spaces, CPU, seed=4)
    other.load(learner.weights(), 7)
    unroll = rollout.collect(lambda request: other([request])[0])
    logits, batch = relearnt(learner, unroll.data)
    rollout.close()
    for group, columns in enumerate((slice(0, 5), slice(5, 10))):
        for a, b in zip(unroll.data.inputs, seen[group], strict=True):
            np.testing.assert_array_equal(a[0, columns], b)
    assert batch.state.hidden.abs().sum() == 0
    torch.testing.assert_close(logits, batch.logits, rtol=1e-4, atol=1e-5)
    assert unroll.info.version == 7


@pytest.mark.slow
def test_one_batch_of_many_groups_is_each_alone_and_keeps_their_states_apart():
    _, rollout, together = central()
    requests = []
    rollout.collect(
        lambda request: requests.append(request._replace(inputs=copied(request.inputs))) or together([request])[0]
    )
    rollout.close()
    mine = [r for r in requests if r.group == (0, 0)]
    config, spaces = rollout._config, rollout._suite.spaces
    learner = Learner(config, spaces, 1, CPU)
    batched, alone = (Inference(config, spaces, CPU, seed=1) for _ in range(2))
    for inference in (batched, alone):
        inference.load(learner.weights(), 0)
    for request in mine:
        a, b = batched([request._replace(group=(5, 0)), request._replace(group=(6, 1), begins=True)])
        (c,) = alone([request])
        np.testing.assert_allclose(a.logits, c.logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(a.logits, b.logits, rtol=1e-5, atol=1e-6)
        assert (b.state is not None, a.state is not None) == (True, request.begins)


def test_weights_are_the_newest_whatever_their_order():
    learner, rollout, inference = central()
    rollout.close()
    old = learner.weights()
    inference.load({k: np.zeros_like(v) for k, v in old.items()}, 4)
    inference.load(old, 3)
    _, rollout, _ = central()
    unroll = rollout.collect(lambda request: inference([request])[0])
    rollout.close()
    assert unroll.info.version == 4
    assert np.abs(unroll.data.logits).sum() == 0


def test_an_unroll_has_the_oldest_version_that_acted():
    learner, rollout, inference = central()
    versions = iter(range(1, 100))

    def infer(request):
        inference.load(learner.weights(), next(versions))
        return inference([request])[0]

    assert rollout.collect(infer).info.version in (1, 2)  # the two groups' threads race for the first
    rollout.close()


def asked_at_once(batcher, count):
    replies, threads = [None] * count, []

    def ask(i):
        try:
            replies[i] = batcher(Request((i, 0), None, False))
        except ValueError as e:
            replies[i] = e

    for i in range(count):
        threads.append(threading.Thread(target=ask, args=(i,)))
        threads[-1].start()
    for thread in threads:
        thread.join(timeout=10)
    return replies


def test_a_batch_waits_for_enough_and_not_beyond_its_time():
    batches = []

    def infer(requests):
        batches.append(len(requests))
        return [Reply(np.array([r.group[0]]), None, 0, None) for r in requests]

    replies = asked_at_once(Batcher(infer, enough=4, wait_s=30), 4)
    assert [int(r.action[0]) for r in replies] == [0, 1, 2, 3]  # each its own
    assert batches == [4]
    began = time.monotonic()
    asked_at_once(Batcher(infer, enough=4, wait_s=0.2), 1)
    assert batches == [4, 1]
    assert 0.2 <= time.monotonic() - began < 5


def test_a_batch_that_fails_is_heard_of_by_all_and_the_next_is_computed():
    fail = [True]

    def infer(requests):
        if fail.pop() if fail else False:
            raise ValueError("bad")
        return [Reply(np.zeros(1), None, 0, None) for _ in requests]

    batcher = Batcher(infer, enough=3, wait_s=30)
    assert [type(r) for r in asked_at_once(batcher, 3)] == [ValueError] * 3
    assert [type(r) for r in asked_at_once(batcher, 3)] == [Reply] * 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("inference.workers=2",), "the section inference needs actors.inference=central"),
        (("actors.inference=central", "inference.workers=0"), "inference.workers=0"),
        (("actors.inference=central", "inference.num_gpus=2"), "inference.num_gpus=2"),
        (("actors.inference=remote",), "'local' or 'central'"),
        (("actors.inference=central", "train.deterministic=true", "train.checkpoint_every_updates=1"),
         "train.deterministic=true needs actors.inference=local"),
    ],
)  # fmt: skip
def test_bad_settings(change, says):
    with pytest.raises(UserError, match=says):
        tiny_config(*change)
