import pytest
import yaml

from impala_mi.bench.tune import candidates
from impala_mi.config import build
from impala_mi.errors import UserError


@pytest.mark.parametrize("cores", [1, 2, 16, 64])
@pytest.mark.parametrize("batch", [1, 20, 32, 36, 100])
def test_candidates_are_valid_and_few(cores, batch):
    config = build("x", {"learner": {"batch_size": batch}, "actors": {"envs": 1}}, [])
    options = candidates(config, 1, cores)
    assert 1 <= len(options) <= 4
    for candidate in options:
        build("x", config.model_dump(), candidate.overrides)  # refuses what does not fit
        assert candidate.actors <= cores
        assert candidate.threads <= cores
        printed = yaml.safe_load(candidate.yaml)
        build("x", config.model_dump() | {"actors": printed["actors"]}, [])


def test_every_level_has_an_environment():
    config = build("x", {"learner": {"batch_size": 32}}, [])
    options = candidates(config, 40, 2)
    assert options
    assert all(c.actors * c.envs >= 40 for c in options)
    with pytest.raises(UserError, match="fewer than 70"):
        candidates(config, 70, 2)
