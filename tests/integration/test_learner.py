"""The learner's processes: updates in flight and lost rollouts; tests/training has ranks that die or hang."""

import time

import numpy as np
import pytest

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import psutil
import ray

from impala_mi.bench.parts import random_unrolls
from impala_mi.envs.suites import make_suite
from impala_mi.learner.group import LearnerGroup, RolloutsLost, start_ranks
from impala_mi.training.placement import reserve
from impala_mi.training.ray_port import RAY
from tests.tiny import tiny_config

pytestmark = pytest.mark.integration


class Owner:
    def put(self, data):
        return [ray.put(data)]


@pytest.fixture
def group(request):
    config = tiny_config("learner.batch_size=10", "actors.envs=5", *request.param)
    suite = make_suite(config.env)
    with running_ray(config, suite):
        ranks = start_ranks(config, reserve(config)[0].learner)
        made = LearnerGroup(config, None, ranks, RAY)
        while (start := made.started(1)) is None:
            pass
        assert made.result(start).counters.version == 0
        made.data = lambda: ray.put(random_unrolls(suite.spaces, config, config.learner.unroll_length, 5))
        yield made
        made.kill()


def batch(group):
    return [group.data(), group.data()]


@pytest.mark.parametrize("group", [()], indirect=True)
def test_two_batches_under_way_come_out_in_order(group):
    """The next batch is staged, and on a GPU its update begun, while one is learnt from."""
    [learner] = processes()
    assert learner.environ()["MALLOC_MMAP_MAX_"] == "0", "freed memory is kept"
    under_way = [group.update([0, 0], batch(group)) for _ in range(2)]
    seen, lags = [], []
    for turn in range(5):
        update = under_way.pop(0)
        result = group.result(update)
        assert (result.counters.version, result.counters.updates) == (turn + 1, turn + 1)
        assert result.counters.agent_steps == (turn + 1) * 7 * 10
        lags.append(result.metrics["lag_mean"])
        weights = ray.get(update.weights)
        assert all(any(not np.array_equal(w[k], weights[k]) for k in w) for w in seen), "each version has its own"
        seen.append(weights)
        under_way.append(group.update([0, 0], batch(group)))
    assert lags == [0, 1, 2, 3, 4]
    state = ray.get(group.state())
    assert state["counters"]["version"] == 7, "the two under way are in it"


@pytest.mark.parametrize("group", [("learner.ranks=2",)], indirect=True, ids=["two ranks"])
def test_unrolls_that_are_lost_cost_their_batch_alone(group):
    owner = ray.remote(Owner).remote()
    [lost] = ray.get(owner.put.remote(ray.get(group.data())))
    ray.kill(owner)  # what it put goes with it
    time.sleep(2)
    with pytest.raises(RolloutsLost):
        group.result(group.update([0, 0], [group.data(), lost]))
    for turn in range(3):
        assert group.result(group.update([turn, turn], batch(group))).counters.version == turn + 1


def processes():
    below = psutil.Process().children(recursive=True)
    return [p for p in below if "ray::_Learner" in " ".join(p.cmdline())]
