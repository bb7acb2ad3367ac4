"""A run that becomes another member of a population between two updates; see tests/training/test_trainer.py."""

import dataclasses

import pytest

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import torch

from impala_mi.envs.suites import make_suite
from impala_mi.host.signals import StopSignal
from impala_mi.learner.update import Learner
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder
from impala_mi.training.trainer import Trainer
from tests.tiny import tiny_config

pytestmark = pytest.mark.integration

DONOR = {"generation": 1, "parameters": {}, "episodes": 0}


@pytest.fixture
def run(tmp_path, request):
    """Trains 30 updates; `request.param` happens between two steps, once, after ten."""
    config = tiny_config("actors.envs=5", "learner.batch_size=10", "actors.count=2", "train.env_frames=2100",
                         "learner.learning_rate_schedule=linear", *request.param)  # fmt: skip
    suite = make_suite(config.env)

    def go(act):
        seen = []

        def between(trainer):
            if trainer.counters.updates >= 10 and not seen:
                seen.append(None)
                act(trainer)

        with running_ray(config, suite):
            trainer = Trainer(
                config, suite, RunFolder(tmp_path), None, lambda _: None, StopSignal(), between=between
            )
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


@pytest.mark.parametrize("run", [("learner.ranks=2", "actors.inference=central")], indirect=True, ids=["ranks"])
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
