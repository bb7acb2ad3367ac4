"""A run that becomes another member of a population between two updates."""

import dataclasses

import pytest

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import ray
import torch

from impala_mi.envs.suites import make_suite
from impala_mi.host.signals import StopSignal
from impala_mi.learner.update import Learner
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder
from impala_mi.training.trainer import Trainer
from tests.conftest import tiny_config

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


@pytest.mark.parametrize(
    "run", [(), ("learner.ranks=2",), ("actors.inference=central",)], indirect=True, ids=["one", "ranks", "central"]
)
def test_a_run_goes_on_with_what_another_has_learnt(run):
    given = of_another(run.config, run.suite)
    settings = run.config.learner.model_copy(update={"learning_rate": 1e-5, "entropy_cost": 0.5})
    config = run.config.model_copy(update={"learner": settings})
    found = {}

    def adopt(trainer):
        before, found["kept"] = trainer.counters, trainer.records.discarded
        assert trainer.records.scores.mean_returns()
        actors = [slot.process for slot in trainer._fleet.slots]
        assert trainer.adopt(config, DONOR, given)
        found["held"] = ray.get(trainer._learner.state())
        found["counters"], found["before"] = trainer.counters, before
        assert [slot.process for slot in trainer._fleet.slots] == actors
        assert trainer.records.scores.mean_returns() == {}
        assert not trainer._ready
        found["discarded"] = trainer.records.discarded
        take = trainer.records.take

        def watch(info, scored=True):
            found.setdefault("versions", []).append((info.version, scored))
            take(info, scored)

        trainer.records.take = watch

    trainer, result = run(adopt)
    assert checkpoints.digest(found["held"]) == checkpoints.digest(given)
    before, after = found["before"], found["counters"]
    assert after.updates >= before.updates  # its own counts go on
    assert after.agent_steps + after.schedule_ahead == 1400  # and the schedule is the donor's
    # What older weights played, under way then, is neither scored nor learnt from.
    assert all(scored == (version >= after.version) for version, scored in found["versions"])
    stale = sum(not scored for _, scored in found["versions"])
    assert trainer.records.discarded == found["discarded"] + stale > found["kept"]
    assert result.counters.env_frames == 2100
    last = checkpoints.load(RunFolder(trainer._folder.path).checkpoints)
    assert last.run["member"] == DONOR
    assert RunFolder(trainer._folder.path).config.learner == settings


@pytest.mark.parametrize("run", [()], indirect=True)
def test_a_learner_that_dies_before_a_copy_leaves_a_member_as_it_was_and_the_copy_is_made(run):
    given = of_another(run.config, run.suite)
    saved = []

    def adopt(trainer):
        save = trainer.records.save

        def watch(state, *look):
            saved.append((checkpoints.digest(state), dict(trainer.records.member)))
            return save(state, *look)

        trainer.records.save = watch
        trainer._learner.kill()
        assert trainer.adopt(run.config, DONOR, given)

    run(adopt)
    assert saved[0] == (checkpoints.digest(given), DONOR)
    assert all(member == DONOR for _, member in saved)


@pytest.mark.parametrize("run", [("learner.max_restarts=0",)], indirect=True)
def test_a_member_whose_learner_may_not_be_replaced_is_saved_as_what_it_was(run, tmp_path):
    given = of_another(run.config, run.suite)

    def adopt(trainer):
        trainer._kept = ray.get(trainer._learner.state())
        trainer._learner.kill()
        trainer.adopt(run.config, DONOR, given)

    with pytest.raises(Exception, match="max_restarts"):
        run(adopt)
    last = checkpoints.load(RunFolder(tmp_path).checkpoints)
    assert last.run["member"] == {}
    assert checkpoints.digest(last.learner) != checkpoints.digest(given)
