"""The learner's processes on one Ray: updates in flight, lost rollouts, and a run that becomes another member.

tests/training has ranks that die or hang, and members that are loaded by a trainer whose processes die.
"""

import dataclasses
import time

import numpy as np
import pytest

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import psutil
import ray
import torch

from impala_mi.bench.parts import random_unrolls
from impala_mi.envs.suites import make_suite
from impala_mi.host.signals import StopSignal
from impala_mi.learner.group import LearnerGroup, RolloutsLost, start_ranks
from impala_mi.learner.update import Learner
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder
from impala_mi.training.placement import reserve
from impala_mi.training.ray_port import RAY
from impala_mi.training.trainer import Trainer
from tests.tiny import tiny_config

pytestmark = pytest.mark.integration
DONOR = {"generation": 1, "parameters": {}, "episodes": 0}
RANKS = ("actors.envs=5", "learner.batch_size=10", "actors.count=2", "learner.ranks=2", "actors.inference=central")


class Owner:
    def put(self, data):
        return [ray.put(data)]


@pytest.fixture(scope="module")
def cluster():
    """A Ray with room for the groups and the run below, one after the other."""
    config = tiny_config(*RANKS)
    with running_ray(config, make_suite(config.env), runs=3):
        yield


@pytest.fixture
def group(request, cluster):
    config = tiny_config("learner.batch_size=10", "actors.envs=5", *request.param)
    suite = make_suite(config.env)
    made = LearnerGroup(config, None, start_ranks(config, reserve(config)[0].learner), RAY)
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


@pytest.fixture
def run(tmp_path, cluster):
    """Run of 30 updates on two ranks; calls its argument with the trainer once, after at least ten updates."""
    config = tiny_config(*RANKS, "train.env_frames=2100", "learner.learning_rate_schedule=linear")
    suite = make_suite(config.env)

    def go(act):
        seen = []

        def between(trainer):
            if trainer.counters.updates >= 10 and not seen:
                seen.append(None)
                act(trainer)

        trainer = Trainer(config, suite, RunFolder(tmp_path), None, lambda _: None, StopSignal(), between=between)
        try:
            return trainer, trainer.run()
        finally:
            trainer.close()

    go.config, go.suite = config, suite
    return go


def of_another(config, suite, steps=3):
    """State of a learner that knows something else and has come further in its schedule."""
    other = Learner(config.model_copy(update={"seed": 99}), suite.spaces, suite.action_repeat, torch.device("cpu"))
    other.optimizer.step(torch.ones_like(other.optimizer.gradient()), 0.1)
    return other.state() | {
        "counters": dataclasses.asdict(other.counters) | {"agent_steps": 1400, "env_frames": 1400, "version": steps}
    }


def test_a_run_goes_on_with_what_another_has_learnt(run):
    given = of_another(run.config, run.suite)
    settings = run.config.learner.model_copy(update={"learning_rate": 1e-5, "entropy_cost": 0.5})
    config = run.config.model_copy(update={"learner": settings})
    found = {}

    def load(trainer):
        before, found["kept"] = trainer.counters, trainer.recorder.discarded
        assert trainer.recorder.scores.mean_returns()
        actors = [actor.process for actor in trainer._pool.actors]
        assert trainer.load_member(config, DONOR, given)
        found["held"] = trainer.state()
        found["counters"], found["before"] = trainer.counters, before
        assert [actor.process for actor in trainer._pool.actors] == actors
        assert trainer.recorder.scores.mean_returns() == {}
        assert not len(trainer._source)
        found["discarded"] = trainer.recorder.discarded
        on_rollout = trainer.recorder.on_rollout

        def watch(info, scored=True):
            found.setdefault("versions", []).append((info.version, scored))
            on_rollout(info, scored)

        trainer.recorder.on_rollout = watch

    trainer, result = run(load)
    assert checkpoints.digest(found["held"]) == checkpoints.digest(given)
    before, after = found["before"], found["counters"]
    assert after.updates >= before.updates  # its own counts go on
    assert after.agent_steps + after.schedule_ahead == 1400  # and the schedule is the donor's
    # What older weights played, under way then, is neither scored nor learnt from.
    assert all(scored == (version >= after.version) for version, scored in found["versions"])
    stale = sum(not scored for _, scored in found["versions"])
    assert trainer.recorder.discarded == found["discarded"] + stale > found["kept"]
    assert result.counters.env_frames == 2100
    last = checkpoints.load(RunFolder(trainer._folder.path).checkpoints)
    assert last.run["member"] == DONOR
    assert RunFolder(trainer._folder.path).config.learner == settings
