"""The learner group on fake ranks: updates in flight, lost rollouts, ranks that die, hang or get no resources."""

import pytest
from ray.exceptions import RayActorError

from impala_mi.errors import TrainingError
from impala_mi.learner.group import LearnerDied, LearnerGroup, RolloutsLost
from tests.tiny import tiny_config
from tests.training.fakes import LEARN_S, Ref, World, lost_object


def group_of(world: World, *overrides: str, state=None) -> LearnerGroup:
    config = tiny_config("learner.batch_size=10", *overrides)
    return LearnerGroup(config, state, world.make_ranks(config, None), world.port)


def started(world: World, *overrides: str) -> LearnerGroup:
    group = group_of(world, *overrides)
    while (start := group.started(1)) is None:
        pass
    assert group.result(start).counters.version == 0
    return group


def rollouts() -> list[Ref]:
    return [Ref("transitions", done=True) for _ in range(2)]


def lost() -> Ref:
    ref = Ref()
    ref.end(error=lost_object())
    return ref


def later(world: World, seconds: float) -> list[Ref]:
    """A batch of which a part arrives late."""
    ref = Ref()
    world.port.at(seconds, ref.end)
    return [Ref("transitions", done=True), ref]


@pytest.mark.parametrize("ranks", [1, 2])
def test_updates_in_flight_end_in_order_and_each_version_has_its_weights(world, ranks):
    group = started(world, f"learner.ranks={ranks}")
    in_flight = [group.update([0, 0], rollouts()) for _ in range(2)]
    for turn in range(5):
        assert len(group.pending(in_flight[0])) == ranks
        result = group.result(update := in_flight.pop(0))
        assert (result.counters.version, result.published) == (turn + 1, True)
        assert group.pending(update) == []
        assert world.port.get(update.weights) == {"w": turn + 1}
        in_flight.append(group.update([0, 0], rollouts()))
    assert world.port.get(group.state())["counters"]["version"] == 7  # after the updates in flight
    assert all(len(lags) == 2 for rank in world.ranks for lags in rank.lags)


def test_a_result_that_is_not_there_in_time_is_none(world):
    group = started(world)
    update = group.update([0, 0], rollouts())
    assert group.result(update, wait_s=0.1) is None
    assert group.result(update, wait_s=0) is None
    assert group.result(update, wait_s=LEARN_S).counters.version == 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_rollouts_that_are_lost_cost_their_batch_alone(world, ranks):
    group = started(world, f"learner.ranks={ranks}")
    with pytest.raises(RolloutsLost, match="Failed to retrieve object"):
        group.result(group.update([0, 0], [rollouts()[0], lost()]))
    for turn in range(3):
        assert group.result(group.update([turn, turn], rollouts())).counters.version == turn + 1


def test_an_update_has_its_time_from_when_the_one_before_is_done(world):
    group = started(world, "learner.timeout_s=10")
    [rank] = world.ranks
    rank.learn_s = 6
    in_flight = [group.update([0, 0], rollouts()) for _ in range(2)]
    for version in (1, 2):
        assert group.result(in_flight.pop(0)).counters.version == version
    rank.learn_s = 11
    update = group.update([2, 2], rollouts())
    assert not group.late(update)
    with pytest.raises(LearnerDied, match=r"no answer in learner.timeout_s=10"):
        group.result(update)
    assert group.late(update)


def test_a_rank_that_hangs_is_a_death(world):
    group = started(world, "learner.ranks=2", "learner.timeout_s=12")
    world.ranks[1].answers = False
    since = world.port.time
    with pytest.raises(LearnerDied, match=r"learner.timeout_s=12"):
        group.result(group.update([0, 0], rollouts()))
    assert world.port.time - since == pytest.approx(12, abs=0.1)


@pytest.mark.parametrize(("ranks", "victim"), [(1, 0), (2, 0), (2, 1)])
def test_a_rank_that_dies_is_a_death_of_the_learner(world, ranks, victim):
    group = started(world, f"learner.ranks={ranks}")
    update = group.update([0, 0], rollouts())
    world.port.at(0.2, world.ranks[victim].die)
    with pytest.raises(LearnerDied, match=r"died unexpectedly|connection closed"):
        group.result(update)
    with pytest.raises(LearnerDied):
        group.result(group.update([0, 0], rollouts()))


def test_errors_of_the_learner(world):
    group = started(world)
    world.learner_error = TrainingError("10 updates in a row were not finite")
    with pytest.raises(TrainingError, match=r"^10 updates in a row were not finite$"):
        group.result(group.update([0, 0], rollouts()))
    world.learner_error = ValueError("a bug")
    with pytest.raises(TrainingError, match="the learner failed: ValueError: a bug"):
        group.result(group.update([0, 0], rollouts()))
    pair = started(other := World(), "learner.ranks=2")
    other.learner_error = ValueError("a bug")  # of several ranks it may be a connection to one that died
    with pytest.raises(LearnerDied, match="a bug"):
        pair.result(pair.update([0, 0], rollouts()))


def test_a_learner_without_resources_counts_as_dead_after_a_while(world):
    world.resources = False
    group = group_of(world, "actors.quorum_s=30")
    for _ in range(30):
        assert group.started(1) is None
    with pytest.raises(LearnerDied, match=r"no free resources for it for actors.quorum_s=30 s"):
        group.started(1)


def test_a_start_that_takes_too_long_is_a_death(world):
    group = group_of(world, "learner.timeout_s=5")
    assert group.started(1) is None
    world.ranks[0].hangs = True
    while (start := group.started(1)) is None:
        pass
    with pytest.raises(LearnerDied, match=r"learner.timeout_s=5"):
        group.result(start)


def test_a_living_rank_is_asked_for_its_state(world):
    group = started(world, "learner.ranks=2")
    for turn in range(3):
        group.result(group.update([turn, turn], rollouts()))
    world.ranks[0].die()
    assert group.rescue(10)["counters"]["version"] == 3
    world.ranks[1].hangs = True
    since = world.port.time
    assert group.rescue(10) is None
    assert world.port.time - since == pytest.approx(10, abs=0.1)
    world.ranks[1].die()
    assert group.rescue(10) is None


def test_a_preview_that_does_not_come_is_none(world):
    group = started(world)
    assert group.preview() is None
    world.ranks[0].hangs = True
    assert group.preview() is None
    world.ranks[0].die()
    assert group.preview() is None


def test_killing_dead_ranks_is_no_error(world):
    group = started(world, "learner.ranks=2")
    world.ranks[0].kill = lambda: (_ for _ in ()).throw(RayActorError())
    group.kill()
    assert world.ranks[1].killed
