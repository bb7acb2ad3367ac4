"""Supervision of the learner on fake ranks: rescue copies, replacement, the restart budget, loading a member."""

import pytest

from impala_mi.errors import GivenUp, TrainingError
from impala_mi.learner.update import Counters
from impala_mi.training.actor_slot import RolloutRef
from impala_mi.training.learner_supervisor import COPY_EVERY_S, LearnerSupervisor
from impala_mi.types import RolloutInfo
from tests.tiny import tiny_config
from tests.training.fakes import Ref, World, lost_object, state_of


class Run:
    def __init__(self, world: World, *overrides: str, state=None) -> None:
        self.world, self.config = world, tiny_config("learner.batch_size=10", *overrides)
        self.events, self.published, self.saved = [], [], []
        self.meanwhile = lambda: None
        self.learner = LearnerSupervisor(
            self.config, state, "placement", world.make_ranks, world.port,
            lambda kind, **details: self.events.append((kind, details)),
            lambda weights, version: self.published.append(version), self.saved.append, lambda: self.meanwhile(),
        )  # fmt: skip

    def start(self):
        self.learner.start()
        return self

    def submit(self, lost=False):
        data = Ref("transitions", done=True)
        if lost:
            data = Ref()
            data.end(error=lost_object())
        info = RolloutInfo(0, self.learner.counters.version, [])
        self.learner.submit([RolloutRef(info, data)] * 2)

    def update(self, times=1):
        for _ in range(times):
            self.submit()
            while self.learner.in_flight and (finished := self.learner.consume(1)) is None:
                pass
        return finished

    def copy(self):
        """Have a rescue copy made of the state by now."""
        self.world.port.sleep(COPY_EVERY_S)
        self.learner.refresh_rescue_copy()
        self.world.port.sleep(1)
        self.learner.refresh_rescue_copy()

    def kinds(self):
        return [kind for kind, _ in self.events]


def test_a_learner_starts_and_learns(world):
    run = Run(world).start()
    assert (run.learner.counters, run.learner.restarts) == (Counters(), 0)
    assert world.port.get(run.learner.weights) == {"w": 0}
    finished = run.update()
    assert (finished.lags, finished.metrics, len(finished.infos)) == ([0, 0], {"loss/total": 1.0}, 2)
    assert run.learner.counters.version == 1
    assert run.published == [0, 1]
    assert world.port.get(run.learner.weights) == {"w": 1}


def test_the_lag_is_that_of_an_updates_turn(world):
    run = Run(world).start()
    for _ in range(3):
        run.submit()
    assert run.learner.in_flight == 3
    lags = []
    while run.learner.in_flight:
        if (finished := run.learner.consume(1)) is not None:
            lags.append(finished.lags[0])
    assert lags == [0, 1, 2]


def test_there_is_news_once_a_rank_answers_or_the_update_is_late(world):
    run = Run(world, "learner.ranks=2", "learner.timeout_s=20").start()
    assert not run.learner.has_news([], [])
    assert run.learner.pending() == []
    run.submit()
    pending = run.learner.pending()
    assert not run.learner.has_news(pending, [])
    assert run.learner.has_news(pending, [pending[1]])
    world.ranks[0].answers = False
    run.submit()
    run.learner.consume(5)
    pending = run.learner.pending()
    world.port.sleep(19)
    assert not run.learner.has_news(run.learner.pending(), []) or len(pending) < 2
    world.port.sleep(2)
    assert run.learner.has_news(run.learner.pending(), [])


def test_lost_rollouts_cost_an_update_and_no_restart(world):
    run = Run(world).start()
    run.submit(lost=True)
    assert run.learner.consume(1) is None
    assert run.learner.in_flight == 0
    assert run.kinds() == ["unrolls_lost"]
    run.update()
    assert run.learner.counters.version == 1


def test_a_learner_that_dies_is_replaced_from_the_rescue_copy_with_a_version_nobody_has_seen(world):
    run = Run(world).start()
    run.update(3)
    run.copy()
    run.update(2)
    world.ranks[0].die()
    run.submit()
    run.submit()
    assert run.learner.consume(1) is None
    assert run.learner.in_flight == 0
    died, restarted = run.events
    assert died == ("learner_died", {"error": "The actor died unexpectedly."})
    frames = run.config.steps_per_update
    assert restarted[1]["env_frames"] == 3 * frames
    assert restarted[1]["frames_lost"] == 2 * frames
    assert (run.learner.counters.updates, run.learner.counters.version) == (3, 6)
    assert run.published[-1] == 6
    assert world.ranks[0].killed
    assert run.learner.restarts == 1
    run.update()
    assert (run.learner.counters.updates, run.learner.counters.version) == (4, 7)


def test_a_learner_that_dies_before_the_first_copy_starts_anew(world):
    run = Run(world).start()
    run.update(2)
    world.ranks[0].die()
    run.update()
    assert world.started_from == [None, None]


def test_a_rescue_copy_is_made_every_ten_seconds_without_waiting(world):
    run = Run(world).start()
    run.update()
    run.learner.refresh_rescue_copy()
    assert run.learner.rescue_copy is None
    world.port.sleep(COPY_EVERY_S)
    run.learner.refresh_rescue_copy()
    assert run.learner.rescue_copy is None  # it was only asked for
    run.learner.refresh_rescue_copy()
    world.port.sleep(1)
    run.learner.refresh_rescue_copy()
    assert run.learner.rescue_copy["counters"]["updates"] == 1


def test_a_death_is_also_found_by_a_rescue_copy(world):
    run = Run(world).start()
    world.ranks[0].die()
    run.copy()
    assert run.kinds() == ["learner_died", "learner_restarted"]


def test_a_rank_that_lives_has_the_newest_state(world):
    run = Run(world, "learner.ranks=2").start()
    run.update()
    run.copy()
    run.update(4)
    world.ranks[1].die()
    run.submit()
    run.learner.consume(1)
    assert run.events[-1][1]["frames_lost"] == 0
    assert run.learner.counters.updates == 5
    assert len(world.ranks) == 4
    run.update()
    assert run.learner.counters.updates == 6


def test_without_an_answer_of_the_other_ranks_the_rescue_copy_serves(world):
    run = Run(world, "learner.ranks=2").start()
    run.update()
    run.copy()
    run.update(4)
    world.ranks[0].hangs = True
    world.ranks[1].die()
    run.submit()
    run.learner.consume(1)
    assert run.learner.counters.updates == 1


def test_a_learner_that_dies_while_it_starts_is_started_again(world):
    world.on_ranks = lambda ranks: len(world.ranks) == 1 and world.port.at(0.5, ranks[0].die)
    run = Run(world).start()
    assert run.kinds() == ["learner_died", "learner_restarted"]
    assert run.learner.counters == Counters()


def test_a_replacement_that_dies_while_it_starts_is_replaced_from_the_same_state(world):
    run = Run(world).start()
    run.update(3)
    run.copy()
    world.on_ranks = lambda ranks: len(world.ranks) < 4 and world.port.at(0.5, ranks[0].die)
    world.ranks[0].die()
    run.submit()
    run.learner.consume(1)
    assert run.kinds() == ["learner_died"] * 3 + ["learner_restarted"]
    assert [state and state["counters"]["updates"] for state in world.started_from] == [None, 3, 3, 3]
    assert run.learner.restarts == 3
    assert all(rank.killed for rank in world.ranks[:3])


def test_a_learner_that_dies_too_often_is_saved_and_ends_the_run(world):
    run = Run(world, "learner.max_restarts=0").start()
    run.update(2)
    run.copy()
    world.ranks[0].die()
    run.submit()
    with pytest.raises(TrainingError, match=r"1 deaths in an hour, more than learner.max_restarts=0") as error:
        run.learner.consume(1)
    assert not isinstance(error.value, GivenUp)  # nobody is left to be asked for a checkpoint
    assert [state["counters"]["updates"] for state in run.saved] == [2]


def test_without_any_state_nothing_is_saved(world):
    run = Run(world, "learner.max_restarts=0").start()
    world.ranks[0].die()
    run.submit()
    with pytest.raises(TrainingError, match="max_restarts"):
        run.learner.consume(1)
    assert run.saved == []


def test_actors_are_supervised_while_a_replacement_starts_and_a_stop_ends_it(world):
    run = Run(world).start()
    run.copy()
    calls = []
    run.meanwhile = lambda: calls.append(world.port.time)
    world.ranks[0].die()
    run.submit()
    run.learner.consume(1)
    assert len(calls) >= 2

    def stop():
        raise TrainingError("SIGINT while the learner was being replaced")

    run.meanwhile = stop
    world.ranks[-1].die()
    run.submit()
    with pytest.raises(TrainingError, match="SIGINT while the learner was being replaced"):
        run.learner.consume(1)
    assert len(run.saved) == 1


def test_a_learner_that_hangs_is_replaced_when_it_is_asked_for_its_state(world):
    run = Run(world, "learner.timeout_s=30").start()
    run.update(2)
    run.copy()
    world.ranks[0].hangs = True
    assert run.learner.state()["counters"]["updates"] == 2
    assert run.events[0] == ("learner_died", {"error": "no answer in time"})
    assert [h.learning_rate for h in run.learner.hyperparameters()] == [run.config.learner.learning_rate]


def test_a_resumed_learner_that_dies_at_once_goes_on_from_the_checkpoint(world):
    state = state_of(7.0, Counters(updates=7, version=7))
    world.on_ranks = lambda ranks: len(world.ranks) == 1 and world.port.at(0.5, ranks[0].die)
    run = Run(world, state=state)
    assert run.learner.counters.updates == 7
    run.start()
    assert (run.learner.counters.updates, run.learner.counters.version) == (7, 8)


def member(run, weight, **changes):
    """Configuration and state of another member."""
    config = run.config.model_copy(update={"learner": run.config.learner.model_copy(update=changes)})
    return config, state_of(weight, Counters(updates=5, version=50))


def test_a_member_is_loaded_by_every_rank(world):
    run = Run(world, "learner.ranks=2").start()
    run.update(5)
    config, state = member(run, 100.0, learning_rate=1e-5)
    run.learner.load_member(config, state)
    assert run.learner.committed is state
    assert run.learner.hyperparameters() == [config.learner] * 2
    assert [rank.weight for rank in world.ranks] == [100.0] * 2
    assert run.published[-1] == 50
    run.learner.confirm()
    assert run.learner.committed is None


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("when", [0.0, 0.05, 0.12])
def test_a_learner_that_dies_while_it_loads_a_member_is_replaced_by_one_that_is_it(world, ranks, when):
    """A living rank may hold either state, so that none is asked."""
    run = Run(world, f"learner.ranks={ranks}").start()
    run.update(5)
    run.copy()
    config, state = member(run, 100.0, learning_rate=1e-5)
    world.port.at(when, world.ranks[-1].die)
    run.learner.load_member(config, state)
    assert float(run.learner.state()["agent"]["w"]) == 100.0
    assert run.learner.hyperparameters() == [config.learner] * ranks
    assert run.learner.counters.version > 50 or when > 0.1
    assert run.kinds().count("learner_died") == 1


def test_a_member_whose_learner_may_not_be_replaced_is_saved_as_what_it_was_to_become(world):
    run = Run(world, "learner.max_restarts=0").start()
    run.update(5)
    run.learner.state()
    config, state = member(run, 100.0)
    world.ranks[0].die()
    with pytest.raises(TrainingError, match="max_restarts"):
        run.learner.load_member(config, state)
    assert run.saved == [state]
    assert run.learner.last_known is state
