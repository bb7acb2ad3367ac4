"""Separation of levels."""

import numpy as np
import pytest

from impala_mi.analysis.clusters import level_separation
from impala_mi.analysis.recording import Recording


def recording(vectors, level, episode, time):
    return Recording(
        [f"level{k}" for k in range(max(level) + 1)], np.array(level), np.array(episode), np.array(time),
        np.array([""] * len(level)), None, {"core": np.asarray(vectors, np.float32)},
    )  # fmt: skip


def steps(rng, apart, time, levels=3, episodes=12):
    """One step of each episode, with levels `apart` from each other."""
    centres = apart * np.eye(levels)
    return [
        (centres[k] + rng.normal(0, 1, levels), k, 100 * k + e, time)
        for k in range(levels)
        for e in range(episodes)
    ]


@pytest.mark.slow
def test_levels_that_separate_over_time():
    rng = np.random.default_rng(0)
    octaves = level_separation(
        recording(*zip(*(steps(rng, 0, 0) + steps(rng, 4, 1) + steps(rng, 50, 5)), strict=True)), "core", 0
    )
    assert [(row.first, row.last) for row in octaves] == [(0, 0), (1, 1), (4, 7)]
    assert [row.levels for row in octaves] == [3, 3, 3]
    assert [row.neighbours for row in octaves] == [10, 10, 10]
    assert octaves[0].chance == pytest.approx(11 / 35)
    assert abs(octaves[0].purity - octaves[0].chance) < 0.12
    assert octaves[0].purity < octaves[1].purity < octaves[2].purity == 1
    assert abs(octaves[0].silhouette) < 0.1
    assert octaves[2].silhouette > 0.9


@pytest.mark.slow
def test_neighbours_of_the_same_episode_do_not_count():
    """Each episode is a cluster of its own, whatever its level: otherwise the purity would be 1."""
    rng = np.random.default_rng(0)
    rows = []
    for episode in range(40):
        centre = rng.normal(0, 100, 8)
        rows += [(centre + rng.normal(0, 0.01, 8), episode % 2, episode, 64 + i) for i in range(12)]
    (row,) = level_separation(recording(*zip(*rows, strict=True)), "core", 0)
    assert abs(row.purity - row.chance) < 0.25
    assert abs(row.silhouette) < 0.25


def test_octaves_with_a_single_level_are_left_out():
    rng = np.random.default_rng(0)
    rows = steps(rng, 5, 0) + [row for row in steps(rng, 5, 9) if row[1] == 0 or row[2] == 100]
    octaves = level_separation(recording(*zip(*rows, strict=True)), "core", 0)
    assert [row.first for row in octaves] == [0]  # level 1 has a single episode later, level 2 none
    assert level_separation(recording([[0.0], [1.0]], [0, 0], [0, 1], [0, 0]), "core", 0) == []


def test_points_that_are_all_alike_have_numbers():
    level = [0] * 20 + [1] * 20
    (row,) = level_separation(recording(np.zeros((40, 4)), level, range(40), [0] * 40), "core", 0)
    assert row.silhouette == 0
    assert abs(row.purity - row.chance) < 0.3


def test_few_episodes_can_be_pure_too():
    rng = np.random.default_rng(0)
    (row,) = level_separation(recording(*zip(*steps(rng, 50, 3, episodes=2), strict=True)), "core", 0)
    assert row.purity == 1
    assert row.neighbours == 1


def test_the_number_of_compared_steps_is_bounded(monkeypatch):
    monkeypatch.setattr("impala_mi.analysis.clusters.MAX_STEPS", 30)
    rng = np.random.default_rng(0)
    (row,) = level_separation(recording(*zip(*steps(rng, 50, 3, episodes=100), strict=True)), "core", 0)
    assert row.steps == 30
    assert row.purity == 1
