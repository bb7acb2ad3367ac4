"""Tasks that contradict each other by a chosen degree."""

import numpy as np
import pytest

from impala_mi.config import build
from impala_mi.config_suites import InterferenceConfig
from impala_mi.envs.interference import ACTIONS, FEATURES, STEPS, SYMBOLS, right_actions, task_rewards
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from tests.commands import impala, refused


def suite(**settings):
    return make_suite(build("test", {"env": {"suite": "interference", "interference": settings}}).env)


def rules_of(tasks, contradiction, seed=0):
    return right_actions(InterferenceConfig(tasks=tasks, contradiction=contradiction, rules_seed=seed))


@pytest.mark.parametrize("contradiction", [0.0, 0.25, 1.0])
def test_tasks_disagree_on_their_share_of_the_symbols_alone(contradiction):
    rules = rules_of(64, contradiction)
    agreed = (rules == rules[0]).all(0)
    assert agreed.sum() == (1 - contradiction) * SYMBOLS
    if contradiction:
        pairs = np.mean(rules[:32, ~agreed] != rules[32:, ~agreed])
        assert pairs == pytest.approx(1 - 1 / ACTIONS, abs=0.05), "independent actions agree by chance"


def test_more_contradiction_or_tasks_change_nothing_else():
    less, more = rules_of(16, 0.25), rules_of(16, 0.5)
    contested = (less != less[0]).any(0)
    assert (less[:, contested] == more[:, contested]).all()
    assert (rules_of(4, 0.5) == rules_of(64, 0.5)[:4]).all()
    assert (rules_of(4, 0.5, seed=1) != rules_of(4, 0.5)).any()


def test_right_actions_earn_the_reference_and_frames_do_not_tell_the_task():
    own = suite(tasks=3, contradiction=1.0)
    rules = rules_of(3, 1.0)
    frames = {}
    for task, rule in enumerate(rules):
        game = own.make_game(f"task_{task}")
        symbols = {game.reset(seed).frame.tobytes(): game._symbols[0] for seed in range(300)}
        frames[task] = symbols
        observation, total = game.reset(7), 0.0
        for step in range(STEPS):
            outcome = game.step(int(rule[symbols[observation.frame.tobytes()]]))
            observation, total = outcome.observation, total + outcome.reward
            assert outcome.terminated == (step == STEPS - 1)
        assert total == own.levels[task].reference_score == STEPS
    assert frames[0] == frames[1] == frames[2]
    assert own.levels[0].random_score == STEPS / ACTIONS


def test_rewards_spread_over_the_tasks_and_keep_the_scores_apart():
    """Scores are normalised by task, so that the best possible is 100 whatever a task gives."""
    spread = InterferenceConfig(tasks=64, reward_ratio=100.0)
    rewards = task_rewards(spread)
    assert 0.1 <= rewards.min() < 0.13
    assert 8 < rewards.max() <= 10
    assert (task_rewards(InterferenceConfig(tasks=4, reward_ratio=100.0)) == rewards[:4]).all()
    assert (task_rewards(InterferenceConfig(tasks=4)) == 1).all()
    own = suite(tasks=4, contradiction=0.0, reward_ratio=100.0)
    game, right = own.make_game("task_2"), rules_of(4, 0.0)[2]
    game.reset(0)
    outcome = game.step(int(right[game._symbols[0]]))
    assert outcome.reward == rewards[2]
    assert own.levels[2].reference_score == pytest.approx(STEPS * rewards[2])
    assert own.levels[2].random_score == pytest.approx(STEPS / ACTIONS * rewards[2])


def test_frames_that_show_the_task_have_the_same_symbols_and_begin_alike():
    plain, shown = suite(tasks=3), suite(tasks=3, task_in_frame=True)
    assert shown.spaces.frame_shape == (2 * FEATURES,)
    parts = set()
    for name in plain.level_names:
        games = plain.make_game(name), shown.make_game(name)
        symbol, first = (game.reset(5).frame for game in games)
        assert (first == [*symbol, *np.zeros(FEATURES)]).all()
        for _ in range(STEPS):
            symbol, frame = (game.step(0).observation.frame for game in games)
            assert (frame[:FEATURES] == symbol).all()
            parts.add(frame[FEATURES:].tobytes())
    assert len(parts) == 3, "the same features of a task in all frames, different ones of each task"


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"env.interference.contradiction"):
        suite(contradiction=1.5)
    with pytest.raises(UserError, match=r"env.interference.tasks"):
        suite(tasks=0)
    with pytest.raises(UserError, match=r"env.interference.reward_ratio"):
        suite(reward_ratio=0.5)
    refused(impala("levels", "doom", "env.interference.tasks=4", cwd=tmp_path), "env.suite=interference, not to")
