import pytest

from impala_mi.envs.base import Level
from impala_mi.envs.scores import capped_mean, normalised

LEVELS = (Level("a", 10, 20), Level("b", 0, 100), Level("c", 0, 1))


def test_normalised():
    assert normalised(LEVELS[0], 15) == 50
    assert normalised(LEVELS[0], 5) == -50  # no floor
    assert normalised(Level("gym"), 5) is None


def test_averaged_first_capped_second():
    assert capped_mean(LEVELS, {"a": 40, "b": -50, "c": 0.5}) == pytest.approx((100 - 50 + 50) / 3)


def test_unknown_until_every_level_has_a_score():
    assert capped_mean(LEVELS, {"a": 1.0, "b": 1.0}) is None
    assert capped_mean((*LEVELS, Level("gym")), {"a": 1.0, "b": 1.0, "c": 1.0, "gym": 1.0}) is None
