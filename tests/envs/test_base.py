import pickle

import numpy as np
import pytest

from impala_mi.config import EnvConfig
from impala_mi.envs.base import (
    Environment,
    Game,
    GameFault,
    LevelBroken,
    Observation,
    Outcome,
    Suite,
    check_game,
)
from impala_mi.envs.faults import FORGIVE_AFTER_STEPS
from impala_mi.envs.seeds import EpisodeSeeds
from impala_mi.envs.suites import make_suite
from impala_mi.errors import TrainingError, UserError
from impala_mi.types import Spaces
from tests.games import CountingGame, counting


def environment(level: str, terminal: bool = False) -> Environment:
    CountingGame.log.clear()
    return Environment(CountingGame(level), 2, EpisodeSeeds([5], level), terminal)


def play(env: Environment, steps: int):
    return [env.step(1) for _ in range(steps)]


def test_the_end_and_the_next_episode_come_in_one_step():
    env = environment("terminates")
    assert env.reset().first
    *_, last = play(env, 3)
    assert (last.terminated, last.truncated, last.first) == (True, False, True)
    assert last.observation.frame[1] == 0  # the next episode's first
    assert last.reward == 31.0  # the last episode's
    assert last.final_observation is None
    assert (last.episode.return_, last.episode.length, last.episode.level) == (63.0, 3, 2)
    assert env.step(1).episode is None


def test_a_truncated_episode_brings_its_final_observation():
    env = environment("truncates")
    env.reset()
    *_, last = play(env, 4)
    assert (last.terminated, last.truncated) == (False, True)
    assert last.final_observation.frame[1] == 4


@pytest.mark.parametrize(("level", "terminal"), [("no_final", False), ("truncates", True)])
def test_a_cut_off_that_is_terminal(level, terminal):
    """No value can be bootstrapped without a final observation; a suite may treat time limits as termination."""
    env = environment(level, terminal)
    env.reset()
    *_, last = play(env, 5 if level == "no_final" else 4)
    assert (last.terminated, last.truncated, last.final_observation) == (True, False, None)


def test_episode_seeds_are_distinct_repeatable_plain_ints():
    def seeds():
        env = environment("terminates")
        env.reset()
        play(env, 12)
        return [entry[2] for entry in CountingGame.log if entry[0] == "reset"]

    assert seeds() == seeds()
    assert len(set(seeds())) == 5

    class Picky(CountingGame):
        def reset(self, seed):
            assert type(seed) is int
            assert 0 <= seed < 2**31
            return super().reset(seed)

    Environment(Picky("long"), 0, EpisodeSeeds([1], "long"), False).reset()


class Faulting(CountingGame):
    """Raises `GameFault` at the calls in `at`, counted over the game's life."""

    def __init__(self, level, at, kinds=()):
        super().__init__(level)
        self.at, self.calls, self.kinds = set(at), 0, list(kinds)

    def fault(self):
        self.calls += 1
        if self.calls in self.at:
            raise GameFault(self.kinds.pop(0) if self.kinds else "crash", f"call {self.calls}", "printed")

    def reset(self, seed):
        self.fault()
        return super().reset(seed)

    def step(self, action):
        self.fault()
        return super().step(action)


@pytest.fixture
def slept(monkeypatch):
    waits = []
    monkeypatch.setattr("threading.Event.wait", lambda self, seconds=None: waits.append(seconds))
    return waits


@pytest.mark.parametrize("terminal", [True, False])
def test_a_fault_costs_its_episode_and_bootstraps_from_what_was_last_seen(slept, terminal):
    env = Environment(Faulting("terminates", {3}), 7, EpisodeSeeds([1], "x"), terminal)
    opening = env.reset()
    before = env.step(1)
    lost = env.step(2)
    assert (lost.reward, lost.terminated, lost.truncated, lost.first) == (0.0, False, True, True)
    assert lost.final_observation is before.observation
    assert lost.episode is None  # a lost episode does not count
    assert lost.observation.frame[0] != opening.observation.frame[0]  # the next episode has another seed
    *_, end = [env.step(1) for _ in range(3)]
    assert (end.episode.return_, end.episode.length) == (63.0, 3)  # without the lost episode
    (fault,) = env.take_stats().faults
    assert (fault.seed % 10_000_000, fault.kind, fault.message) == (
        int(opening.observation.frame[0]),
        "crash",
        "call 3",
    )
    assert slept == []


def test_resets_that_fail_are_tried_again_with_other_seeds_and_growing_waits(slept):
    env = Environment(Faulting("long", {1, 2, 3, 5}), 7, EpisodeSeeds([1], "x"), True)
    env.reset()
    stats = env.take_stats()
    assert len({fault.seed for fault in stats.faults}) == len(stats.faults) == 3
    assert len(stats.reset_s) == 1
    assert env.step(0).truncated
    assert slept == [1.0, 2.0, 4.0]  # too few steps in between to forgive
    [env.step(0) for _ in range(FORGIVE_AFTER_STEPS)]
    env._game.at = {env._game.calls + 1}
    assert env.step(0).truncated
    assert slept == [1.0, 2.0, 4.0]  # forgiven


def test_a_seed_whose_reset_hangs_is_tried_again_before_it_is_given_up(slept):
    """Its map may be ready now: compiled by another process, or in the part that was stored."""
    game = Faulting("long", {1, 2, 3, 4, 5}, kinds=["hang", "hang", "hang", "hang", "crash"])
    env = Environment(game, 7, EpisodeSeeds([1], "x"), True)
    opening = env.reset()
    seeds = [fault.seed for fault in env.take_stats().faults]
    assert seeds[0] == seeds[1] == seeds[2]
    assert seeds[3] == seeds[4]
    assert len({*seeds, opening.observation.frame[0]}) == 3


@pytest.mark.parametrize(("give_up", "worked"), [("first", False), ("always", False), ("always", True)])
def test_a_level_that_never_works_is_given_up(slept, give_up, worked):
    at = range(6, 1000) if worked else range(3, 1000)  # after an episode, or in the middle of the first
    env = Environment(Faulting("terminates", at), 7, EpisodeSeeds([1], "x"), True, give_up)
    env.reset()
    with pytest.raises(LevelBroken, match=r"a level failed 10 times in a row: call .*\n.*:\nprinted$") as e:
        [env.step(0) for _ in range(5)]
    assert max(slept) == 60
    copy = pickle.loads(pickle.dumps(e.value))  # as it arrives from an actor
    assert (copy.level, str(copy)) == (7, str(e.value))
    assert isinstance(copy, TrainingError)


@pytest.mark.parametrize(("give_up", "first_fault"), [("first", 6), ("never", 1)])
def test_a_level_that_has_worked_is_tried_for_ever(slept, give_up, first_fault):
    game = Faulting("terminates", range(first_fault, 2500))
    env = Environment(game, 7, EpisodeSeeds([1], "x"), True, give_up)
    env.reset()
    [env.step(0) for _ in range(4)]
    assert len(env.take_stats().faults) == 2500 - first_fault
    assert max(slept) == 60


def test_another_thread_learns_of_faults_at_once(slept):
    env = Environment(Faulting("terminates", {2}), 7, EpisodeSeeds([1], "x"), True)
    env.reset()
    env.step(0)
    assert [fault.message for fault in env.take_faults()] == ["call 2"]
    assert env.take_faults() == []
    assert env.take_stats().faults == []  # none is reported twice


class Broken(CountingGame):
    fault = ""

    def reset(self, seed):
        observation = super().reset(seed)
        if self.fault == "shape":
            return Observation(np.zeros(4, np.float32), "")
        if self.fault == "dtype":
            return Observation(np.zeros(3, np.float64), "")
        if self.fault == "seed":
            return Observation(np.random.default_rng().normal(size=3).astype(np.float32), "")
        return observation

    def step(self, action):
        outcome = super().step(action)
        if self.fault == "reward":
            return outcome._replace(reward=np.float32(1))
        if self.fault == "nan":
            return outcome._replace(reward=float("nan"))
        if self.fault == "both":
            return outcome._replace(terminated=True, truncated=True)
        if self.fault == "gone":
            return Outcome(None, 0.0)
        if self.fault == "reused":
            if not hasattr(self, "frame"):
                self.frame = np.zeros(3, np.float32)
            self.frame += 1
            return outcome._replace(observation=Observation(self.frame, ""))
        return outcome


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("shape", "shape"), ("dtype", "dtype"), ("seed", "same seed"), ("reward", "must be a float"),
        ("nan", "nan"), ("both", "both"), ("gone", "no observation"), ("reused", "overwritten"),
    ],
)  # fmt: skip
def test_the_conformance_check_finds(fault, says):
    good = counting(EnvConfig(levels=["terminates"]))
    check_game(good, "terminates")
    maker = type("Faulty", (Broken,), {"fault": fault})
    bad = Suite("bad", good.levels, good.spaces, good.actions, maker)
    with pytest.raises(UserError, match=says):
        check_game(bad, "terminates")


def test_the_conformance_check_compares_the_suite_with_itself():
    good = counting(EnvConfig(levels=["terminates"]))
    bad = Suite("bad", good.levels, Spaces((3,), "float32", 4, 1, True), good.actions, good.make_game)
    with pytest.raises(UserError, match="num_actions"):
        check_game(bad, "terminates")
    with pytest.raises(UserError, match="no such level"):
        check_game(good, "terminate")


def test_a_games_protocol_is_all_that_is_needed():
    class Plain:
        def reset(self, seed: int) -> Observation:
            return Observation(np.zeros(3, np.float32))

        def step(self, action: int) -> Outcome:
            return Outcome(Observation(np.zeros(3, np.float32)), 0.0)

        def close(self) -> None: ...

    game: Game = Plain()
    assert Environment(game, 0, EpisodeSeeds([0], "x"), False).reset().first


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dooom", "no such suite; there are dmlab30, doom"),
        ("tests.nowhere:make", "cannot be imported"),
        ("tests.games:nothing", "cannot be imported"),
        ("builtins:type", "returned ModelMetaclass"),
        (":x", "cannot be imported: ValueError"),
        (".a:b", "cannot be imported: TypeError"),
        ("tests.games:breaks", "failed: RuntimeError: as it is written"),
    ],
)
def test_unknown_suites(name, says):
    with pytest.raises(UserError, match=says):
        make_suite(EnvConfig(suite=name))


class Raising(CountingGame):
    """Raises an error at the calls in `at`, counted over the game's life."""

    def __init__(self, level, error, at):
        super().__init__(level)
        self.error, self.at, self.calls = error, at, 0

    def step(self, action):
        self.calls += 1
        if self.calls in self.at:
            raise self.error
        return super().step(action)


def test_an_exception_in_step_costs_the_episode(slept):
    env = Environment(Raising("long", RuntimeError("the level broke"), {3}), 2, EpisodeSeeds([5], "long"), False)
    env.reset()
    *_, lost = play(env, 3)
    assert (lost.truncated, lost.first, lost.episode) == (True, True, None)
    assert lost.final_observation.frame[1] == 2
    [fault] = env.take_faults()
    assert (fault.kind, fault.message) == (
        "error",
        f"level '2', seed {fault.seed}, step 2: RuntimeError: the level broke",
    )
    assert env.step(1).observation.frame[1] == 1


@pytest.mark.parametrize("error", [TrainingError("no licence"), UserError("no data"), LevelBroken(1, "gone")])
def test_errors_of_training_are_no_faults(error):
    env = Environment(Raising("long", error, {1}), 2, EpisodeSeeds([5], "long"), False)
    env.reset()
    with pytest.raises(type(error), match=str(error)):
        env.step(1)


def test_a_level_that_cannot_be_closed_is_named():
    class Stuck(CountingGame):
        def close(self):
            raise ValueError("already closed")

    env = counting(EnvConfig(suite="x", levels=["long"]))
    env = Suite("x", env.levels, env.spaces, env.actions, Stuck).make_environment(
        0, EpisodeSeeds([5], "long"), "first"
    )
    with pytest.raises(TrainingError, match="level 'long' cannot be closed: ValueError: already closed"):
        env.close()


def made_anew(levels, kind, give_up="first"):
    """An environment, and the games that were made for it."""
    games, suite = [], counting(EnvConfig(suite="x", levels=levels))

    def make(level):
        games.append(kind(level, len(games)))
        return games[-1]

    suite = Suite("x", suite.levels, suite.spaces, suite.actions, make)
    return suite.make_environment(0, EpisodeSeeds([5], levels[0]), give_up), games


class Corrupted(CountingGame):
    """The first game fails at its second step, and from then on at every call; the second cannot be made."""

    def __init__(self, level, number):
        super().__init__(level)
        self.corrupt, self.first, self.steps = False, number == 0, 0
        if number == 1:
            raise OSError("no licence server")

    def reset(self, seed):
        assert not self.corrupt
        return super().reset(seed)

    def step(self, action):
        self.steps += 1
        self.corrupt |= self.first and self.steps == 2
        if self.corrupt:
            raise RuntimeError("corrupt")
        return super().step(action)

    def counts(self):
        return {"steps": self.steps}

    def close(self):
        super().close()
        raise RuntimeError("cannot close what is broken")


def test_a_game_that_raised_an_exception_is_closed_and_made_anew(slept):
    class Made(Corrupted):
        def __init__(self, level, number):
            numbers.append(number)
            super().__init__(level, len(numbers) - 1)

    numbers = []
    env, games = made_anew(["long"], Made)
    env.reset()
    *_, lost = play(env, 2)
    assert (lost.truncated, lost.first) == (True, True)
    assert [game.closed for game in games] == [True, False]
    assert len(numbers) == 3
    stats = env.take_stats()
    assert [fault.message.split(": ", 1)[1] for fault in stats.faults] == [
        "RuntimeError: corrupt",
        "OSError: no licence server",
    ]
    assert stats.counts == {"steps": 2}
    assert env.step(1).reward == 11.0


def test_a_game_that_reports_its_fault_is_only_reset(slept):
    env, games = made_anew(["terminates"], lambda level, number: Faulting(level, {3}))
    env.reset()
    play(env, 4)
    assert len(games) == 1
    assert not games[0].closed


@pytest.mark.parametrize("level", ["terminates", "long"])
def test_a_level_that_raises_in_every_episode_is_abandoned_though_it_worked(slept, level):
    """Neither an early good episode nor long stretches between the errors let a systematic error run for ever."""
    good = 3 if level == "terminates" else 0
    every = 2 if level == "terminates" else FORGIVE_AFTER_STEPS + 1
    game = Raising(level, KeyError("key"), range(good + every, 10_000, every))
    env = Environment(game, 7, EpisodeSeeds([1], "x"), True, "first")
    env.reset()
    with pytest.raises(LevelBroken, match=r"failed 10 times before an episode ended: .*KeyError"):
        play(env, 13 * every)
    assert len(env.take_faults()) == 10
    patient = Environment(
        Raising(level, KeyError("key"), range(good + every, 10_000, every)),
        7,
        EpisodeSeeds([1], "x"),
        True,
        "never",
    )
    patient.reset()
    play(patient, 20 * every)
    assert len(patient.take_faults()) > 10
