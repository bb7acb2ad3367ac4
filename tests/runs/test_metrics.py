from impala_mi.envs.base import Level
from impala_mi.runs.metrics import LevelScores, Means
from impala_mi.types import Episode

LEVELS = (Level("a", 0, 10), Level("b", 0, 10))


def test_levels_are_averaged_over_a_window_and_scored_together():
    scores = LevelScores(LEVELS, window=2)
    scores.add([Episode(0, r, 3) for r in (100.0, 2.0, 4.0)])
    assert scores.metrics() == {
        "level/a/return_mean": 3.0, "level/a/length_mean": 3.0, "level/a/score": 30.0, "level/a/episodes": 3,
        "level/b/episodes": 0,
    }  # fmt: skip
    scores.add([Episode(1, 50.0, 5)])
    assert scores.metrics()["score/capped_mean"] == (30 + 100) / 2
    again = LevelScores(LEVELS, window=2)
    again.load_state(scores.state())
    assert again.metrics() == scores.metrics()


def test_windows_begin_anew_and_episodes_count_on():
    scores = LevelScores(LEVELS, window=3)
    scores.add([Episode(0, 1.0, 3), Episode(0, 3.0, 3), Episode(1, 5.0, 3)])
    assert scores.mean_returns(least=2) == {"a": 2.0}
    scores.forget()
    assert (scores.mean_returns(), scores.score(), scores.episodes) == ({}, None, [2, 1])


def test_means_begin_anew():
    means = Means()
    means.add({"lag_mean": 1.0, "lag_max": 1.0})
    means.add({"lag_mean": 2.0, "lag_max": 5.0, "late": 1.0})
    means.add({"lag_max": 2.0})
    assert means.take() == {"lag_mean": 1.5, "lag_max": 5.0, "late": 1.0}
    assert means.take() == {}


def test_values_that_are_not_numbers_do_not_spoil_a_mean():
    means = Means()
    means.add({"loss/total": 1.0})
    means.add({"loss/total": float("nan")})
    assert means.take() == {"loss/total": 1.0}
