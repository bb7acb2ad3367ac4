"""The learner's processes: batches under way at once, unrolls that are lost, ranks that do not answer."""

import os
import signal
import time

import numpy as np
import pytest

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import psutil
import ray

from impala_mi.bench.parts import random_unrolls
from impala_mi.envs.suites import make_suite
from impala_mi.learner.group import LearnerDied, LearnerGroup, RolloutsLost
from impala_mi.training.placement import place
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration


class Owner:
    def put(self, data):
        return [ray.put(data)]


@pytest.fixture
def group(request):
    config = tiny_config("learner.batch_size=10", "actors.envs=5", *request.param)
    suite = make_suite(config.env)
    with running_ray(config, suite):
        made = LearnerGroup(config, None, place(config)[0].learner)
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
    """The next is brought, and on a GPU begun, while one is learnt from."""
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


@pytest.mark.parametrize("group", [(), ("learner.ranks=2",)], indirect=True, ids=["alone", "two ranks"])
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


class Late:
    """Hands data on after a while, without the seconds that a worker's start takes."""

    def after(self, seconds, data):
        time.sleep(seconds)
        return data


@pytest.mark.parametrize("group", [("learner.timeout_s=10",)], indirect=True)
def test_an_update_has_its_time_from_when_the_one_before_is_done(group):
    [learner] = processes()
    assert learner.environ()["MALLOC_MMAP_MAX_"] == "0", "what is freed is kept"
    assert group.result(group.update([0, 0], batch(group))).counters.version == 1
    late = ray.remote(Late).options(num_cpus=0, max_concurrency=3).remote()
    ray.get(late.after.remote(0, None))
    now, then, never = ([group.data(), late.after.remote(seconds, group.data())] for seconds in (6, 12, 3600))
    under_way = [group.update([1, 1], unrolls) for unrolls in (now, then)]
    for version in (2, 3):
        assert group.result(under_way.pop(0)).counters.version == version
    with pytest.raises(LearnerDied, match=r"learner.timeout_s=10"):
        group.result(group.update([3, 3], never))
    ray.kill(late)


@pytest.mark.parametrize("group", [("learner.ranks=2", "learner.timeout_s=12")], indirect=True)
def test_a_rank_that_hangs_is_a_death(group):
    assert group.result(group.update([0, 0], batch(group))).counters.version == 1
    stopped = processes()[1]
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        with pytest.raises(LearnerDied, match=r"learner.timeout_s=12"):
            group.result(group.update([1, 1], batch(group)))
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
