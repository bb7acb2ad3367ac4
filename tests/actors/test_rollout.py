import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impala_mi.actors.rollout import assign_levels, halves
from impala_mi.config import ActorsConfig
from impala_mi.envs.suites import make_suite
from impala_mi.learner.batching import stack
from impala_mi.learner.update import Learner
from impala_mi.nn.agent import CORES
from impala_mi.types import NO_ACTION, Transitions, leaves
from tests.games import LENGTHS, CountingGame, in_processes
from tests.nn.test_agent import RECURRENT
from tests.tiny import started, tiny_config

LEVELS = ["terminates", "truncates", "no_final"]
CPU = torch.device("cpu")


def copied(data: Transitions) -> Transitions:
    def copy(x):
        return x.copy() if isinstance(x, np.ndarray) else type(x)(*(copy(a) for a in x))

    return copy(data)


def counting(*overrides, suite="counting"):
    return tiny_config(
        f"env.suite=tests.games:{suite}", f"env.levels=[{','.join(LEVELS)}]", "actors.envs=3",
        "learner.batch_size=3", *overrides,
    )  # fmt: skip


@pytest.fixture(params=["counting", "counting_batches"])
def rollout(request):
    config = counting(suite=request.param)
    CountingGame.log.clear()
    rollout = started(config, make_suite(config.env), 0, [0])
    yield rollout
    rollout.close()


def test_no_transition_is_lost_or_doubled_across_unrolls(rollout):
    unrolls = [copied(rollout.collect().data) for _ in range(6)]
    for before, after in itertools.pairwise(unrolls):
        for a, b in zip(before.inputs, after.inputs, strict=True):
            np.testing.assert_array_equal(a[-1], b[0])  # adjacent unrolls share that one observation
    for column, level in enumerate(LEVELS):
        played = [entry[3:] for entry in CountingGame.log if entry[:2] == ("step", level)]
        recorded = []
        for u in unrolls:
            for t in range(len(u.action)):
                time = int(u.inputs.frame[t, column, 1])
                recorded.append((time + 1, int(u.action[t, column])))
                # the reward is that of this action, alone
                assert u.reward[t, column] == u.action[t, column] + 10 * (time + 1)
        assert recorded == played


def test_alignment_within_an_unroll(rollout):
    for _ in range(3):
        u = rollout.collect().data
        x = u.inputs
        ended = u.terminated | u.truncated
        np.testing.assert_array_equal(x.first[1:], ended)
        np.testing.assert_array_equal(x.last_action[1:], np.where(ended, NO_ACTION, u.action))
        np.testing.assert_array_equal(x.last_reward[1:], np.where(ended, 0, u.reward))
        np.testing.assert_array_equal(x.frame[..., 1] == 0, x.first)  # time 0 where an episode starts
        np.testing.assert_array_equal(x.level, np.broadcast_to(np.arange(3), x.level.shape))
        assert not ended[:, 1].any() or (u.truncated[:, 1] == ended[:, 1]).all()
        assert (u.terminated[:, 0] == ended[:, 0]).all()
        assert (u.terminated[:, 2] == ended[:, 2]).all()  # no final observation: terminal


def test_the_first_observations_of_a_run_start_episodes(rollout):
    x = rollout.collect().data.inputs
    assert x.first[0].all()
    assert (x.last_action[0] == NO_ACTION).all()
    assert (x.last_reward[0] == 0).all()


def test_final_observations_of_truncated_episodes_travel_along(rollout):
    seen = 0
    for _ in range(4):
        u = rollout.collect().data
        times, columns = np.nonzero(u.truncated)
        np.testing.assert_array_equal(u.final_observations.time, times)
        np.testing.assert_array_equal(u.final_observations.column, columns)
        for frame, tokens, t, e in zip(
            u.final_observations.frame, u.final_observations.tokens, times, columns, strict=True
        ):
            assert frame[1] == u.inputs.frame[t, e, 1] + 1  # the observation that the action led to
            assert frame[2] == 1
            assert frame[0] == u.inputs.frame[t, e, 0]  # of the same episode
            assert (tokens != u.inputs.tokens[t, e]).any()
            seen += 1
    assert seen == 4 * 7 // LENGTHS["truncates"]


def test_episodes_are_reported_once_with_unscaled_returns(rollout):
    episodes = [e for _ in range(6) for e in rollout.collect().info.episodes]
    for level, name in enumerate(LEVELS):
        mine = [e for e in episodes if e.level == level]
        assert [e.length for e in mine] == [LENGTHS[name]] * (6 * 7 // LENGTHS[name])
        actions = [entry[4] for entry in CountingGame.log if entry[:2] == ("step", name)]
        for i, episode in enumerate(mine):
            n = LENGTHS[name]
            assert episode.return_ == sum(actions[i * n : (i + 1) * n]) + 10 * n * (n + 1) / 2


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("suite", ["tests.games:counting", "tiny"])
def test_actor_logits_are_learner_logits(suite, core):
    config = (counting if suite != "tiny" else tiny_config)(f"agent.core={core}")
    made = make_suite(config.env)
    learner = Learner(config, made.spaces, 1, CPU)
    rollout = started(config, made, 0, [0])
    rollout.load(learner.weights(), 0)
    for _ in range(4):  # the state before x_0 is not zero after the first
        data = rollout.collect().data
        batch = stack([data])
        with torch.no_grad():
            out = learner.agent(batch.inputs, batch.state)
        torch.testing.assert_close(out.logits[:-1], batch.logits, rtol=1e-4, atol=1e-5)
    assert any(part.abs().sum() > 0 for part in leaves(batch.state)) == (core in RECURRENT)
    rollout.close()


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["counting", "counting_batches"])
def test_seeds_repeat_with_the_run_and_differ_by_slot_episode_and_segment(suite):
    config = counting("actors.count=2", suite=suite)

    def seeds(actor, seed_epoch):
        CountingGame.log.clear()
        rollout = started(config, make_suite(config.env), actor, seed_epoch)
        rollout.collect()
        rollout.close()
        return [entry[2] for entry in CountingGame.log if entry[0] == "reset"]

    assert seeds(0, [0]) == seeds(0, [0])
    drawn = seeds(0, [0]) + seeds(1, [0]) + seeds(0, [1]) + seeds(0, [0, 1])
    assert len(set(drawn)) == len(drawn)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_levels_are_dealt_out_evenly(actors, envs, levels):
    assignment = [k for actor in assign_levels(ActorsConfig(count=actors, envs=envs), levels) for k in actor]
    counts = [assignment.count(k) for k in range(levels)]
    assert max(counts) - min(counts) <= 1


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_an_actor_of_one_level_plays_no_other(per_level, envs, levels):
    assignment = assign_levels(ActorsConfig(per_level=per_level, envs=envs), levels)
    assert all(actor == actor[:1] * envs for actor in assignment)
    assert Counter(actor[0] for actor in assignment) == dict.fromkeys(range(levels), per_level)


def test_stacked_unrolls_keep_their_columns_and_finals():
    config = counting("actors.count=2")
    made = make_suite(config.env)
    unrolls = []
    for actor in range(2):
        rollout = started(config, made, actor, [0])
        unrolls.append(copied(rollout.collect().data))
        rollout.close()
    batch = stack(unrolls)
    assert batch.action.shape == (7, 6)
    for i, u in enumerate(unrolls):
        np.testing.assert_array_equal(batch.inputs.frame[:, 3 * i : 3 * i + 3], u.inputs.frame)
    columns = batch.final_observations.column.tolist()
    assert columns == [c + 3 * i for i, u in enumerate(unrolls) for c in u.final_observations.column]
    for t, c, frame in zip(
        batch.final_observations.time, batch.final_observations.column, batch.final_observations.frame, strict=True
    ):
        assert frame[0] == batch.inputs.frame[t, c, 0]


@pytest.mark.parametrize(("envs", "sizes"), [(1, [1]), (2, [1, 1]), (5, [3, 2])])
def test_halves_are_all_columns(envs, sizes):
    columns = halves(envs)
    assert [c.stop - c.start for c in columns] == sizes
    assert [e for c in columns for e in range(envs)[c]] == list(range(envs))


@pytest.mark.slow
def test_alternating_groups_play_what_one_group_plays():
    """The same games and the same alignment; only the draws of actions come in another order."""
    config = counting()
    played = []
    for threads, alternate, apart in ((1, False, False), (1, True, False), (3, True, False), (256, True, True)):
        suite = dataclasses.replace(make_suite(config.env), step_threads=threads, alternate=alternate)
        suite = in_processes(suite, "apart") if apart else suite
        rollout = started(config, suite, 0, [0])
        unrolls = [copied(rollout.collect().data) for _ in range(4)]
        rollout.close()
        assert any(len(u.final_observations.time) for u in unrolls)
        for before, after in itertools.pairwise(unrolls):
            for a, b in zip(before.inputs, after.inputs, strict=True):
                np.testing.assert_array_equal(a[-1], b[0])
        for u in unrolls:
            for t, e, frame in zip(
                u.final_observations.time, u.final_observations.column, u.final_observations.frame, strict=True
            ):
                assert u.truncated[t, e]
                assert frame[1] == u.inputs.frame[t, e, 1] + 1  # the game's clock
        played.append([(u.inputs.frame, u.inputs.first, u.terminated, u.truncated) for u in unrolls])
    for same in zip(*played, strict=True):
        for one, *others in zip(*same, strict=True):
            for other in others:
                np.testing.assert_array_equal(one, other)
