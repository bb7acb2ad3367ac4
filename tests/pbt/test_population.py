"""The controller of populations with members that are simulated: no Ray, no waiting."""

import copy
import functools
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray
import torch

from impala_mi.envs.suites import make_suite
from impala_mi.errors import TrainingError
from impala_mi.host.signals import StopSignal
from impala_mi.learner.update import Learner
from impala_mi.pbt import member_pool
from impala_mi.pbt.exploit import make_rule
from impala_mi.pbt.journal import Journal, disagreements, read
from impala_mi.pbt.member_pool import STOP_S, MemberPool
from impala_mi.pbt.member_state import NEXT_PHASES, Exploit, MemberPhase, MemberState, Turn
from impala_mi.pbt.population import EXPLOIT_S, Population
from impala_mi.pbt.settings import PopulationConfig
from impala_mi.pbt.worker import Busy, MemberInit, RunFailed, Status
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder
from tests.tiny import tiny_config

KEY = "learner.learning_rate"
FPS = 100


@dataclass
class Ref:
    """Reference of a simulated call: a value or an error, from some time on."""

    value: Any = None
    error: Exception | None = None
    at: float = 0.0


@functools.cache
def learner_state() -> dict[str, Any]:
    """State of a new learner."""
    config = tiny_config()
    return Learner(config, make_suite(config.env).spaces, 1, torch.device("cpu")).state()


def weight_of(learner: dict[str, Any]) -> float:
    """First weight, on which a simulated member's returns depend."""
    return float(next(iter(learner["agent"].values())).view(-1)[0])


class CallError(ray.exceptions.RayError):
    """Error of a remote call with a cause, as Ray raises it."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass
class Simulation:
    """Port with a clock that only waiting moves, and the members' processes."""

    time: float = 0.0
    members: dict[str, "Member"] = field(default_factory=dict)
    """The latest process of each member."""
    starts: list[tuple[float, str]] = field(default_factory=list)
    script: dict[float, Any] = field(default_factory=dict)
    """Functions to call, by time."""
    faults: dict[str, Any] = field(default_factory=dict)
    """Attributes of members that are made from now on, by key."""

    def wait(self, refs, *, num_returns=1, timeout=None):
        done = [ref for ref in refs if ref.at <= self.time]
        if not done and timeout:
            self.sleep(timeout)
        return done, [ref for ref in refs if ref not in done]

    def get(self, ref, *, timeout=None):
        assert ref.at <= self.time
        if ref.error is not None:
            raise ref.error
        return ref.value

    def put(self, value):
        return Ref(value)

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds
        for member in list(self.members.values()):
            member.step()
        for at in sorted(self.script):
            if at <= self.time:
                self.script.pop(at)()

    def make(self, config, folder, init, places):
        key = folder.path.name
        self.starts.append((self.time, key))
        self.members[key] = Member(self, config, folder, init, places)
        vars(self.members[key]).update(self.faults.get(key, {}))
        return self.members[key]


class Member:
    """A member that trains FPS frames a second, an episode of every level with each."""

    deaf = mute = frozen = False
    """Whether it ignores `stop`, never gives its state, never finishes loading."""
    refuses: Exception | None = None
    """Error of every `load_member`."""

    def __init__(self, simulation, config, folder, init, places):
        self.simulation, self.config, self.folder, self.places = simulation, config, folder, places
        self.ended = Ref(at=math.inf)
        self.suite = make_suite(config.env)
        self.base, self.started_at = 0, simulation.time
        self.state_ = {"generation": 0, "parameters": init.parameters, "episodes": 0}
        self.weight = 0.0
        if checkpoints.steps(folder.checkpoints):
            saved = checkpoints.load(folder.checkpoints)
            self.base, self.state_ = saved.meta["env_frames"], saved.run["member"]
            self.weight = weight_of(saved.learner)

    @property
    def frames(self):
        return min(self.base + int(FPS * (self.simulation.time - self.started_at)), self.config.train.env_frames)

    def learner(self):
        state = copy.deepcopy(learner_state())
        next(iter(state["agent"].values())).view(-1)[0] = self.weight
        return state

    def save(self):
        levels = len(self.suite.levels)
        scores = {"returns": [[0.2 + self.weight / 10] * 10] * levels, "lengths": [[1]] * levels}
        run = {"member": self.state_, "scores": scores | {"episodes": [self.frames] + [0] * (levels - 1)}}
        run |= {"time_s": 1.0, "discarded": 0, "starts": 0}
        meta = {"env_frames": self.frames, "updates": 1, "score": None}
        checkpoints.save(self.folder.checkpoints, self.learner(), run, meta, 2)

    def step(self):
        if self.ended.at == math.inf and self.frames >= self.config.train.env_frames:
            self.finish("done")

    def finish(self, how):
        self.save()
        self.ended = self.end(Ref(how))

    def die(self, reason="killed"):
        self.end(Ref(error=ray.exceptions.RayError(f"it was\n{reason}")))

    def end(self, ref):
        self.ended.value, self.ended.error, self.ended.at = ref.value, ref.error, self.simulation.time
        return self.ended

    def status(self, fitness):
        returns = dict.fromkeys(self.suite.level_names, 0.2 + self.weight / 10)
        state = self.state_
        episodes = self.frames - state["episodes"]
        return Ref(Status(self.frames, episodes, returns, state["generation"], state["parameters"], FPS))

    def state(self, generation):
        return Ref(self.learner(), at=math.inf if self.mute else 0.0)

    def load_member(self, generation, parameters, donor, expected):
        if self.frozen:
            return Ref(at=math.inf)
        if self.refuses is not None:
            return Ref(error=CallError(self.refuses))
        if donor is not None:
            assert checkpoints.digest(donor.value) == expected
            self.weight = weight_of(donor.value)
        self.state_ = {"generation": generation, "parameters": parameters, "episodes": self.frames}
        self.save()
        return Ref()

    def stop(self):
        if not self.deaf:
            self.finish("interrupted")

    def kill(self):
        if self.ended.at == math.inf:
            self.die()


class Case:
    """A population in a folder, and what became of it."""

    def __init__(self, folder, frames=4000, **pbt):
        self.folder, self.simulation, self.stop = RunFolder(folder), Simulation(), StopSignal()
        settings = {
            "members": 2, "burn_in_frames": 0, "ready_episodes": 500, "threshold": 0.0, "probability": 1.0,
            "slice_s": 5.0, "space": {KEY: {"log_uniform": [1e-4, 1e-2]}},
        } | pbt  # fmt: skip
        values = tiny_config(f"train.env_frames={frames}", "train.log_every_s=4").model_dump()
        self.config = PopulationConfig.model_validate(values | {"pbt": settings})
        self.reports = []

    def run(self):
        """The end of the population: its result, or a `TrainingError`."""
        places = range(self.config.pbt.concurrent or self.config.pbt.members)
        population = Population(
            self.config, make_suite(self.config.env), make_rule(self.config.pbt), self.folder,
            lambda time_s, members, copies: self.reports.append((time_s, [m.state for m in members], copies)),
            self.stop, places, self.simulation, self.simulation.make,
        )  # fmt: skip
        try:
            return population.run()
        finally:
            population.close()
            lines = read(self.folder.path)
            assert disagreements(lines) == []

    def at(self, time, function):
        self.simulation.script[time] = function

    def stop_at(self, time):
        self.at(time, lambda: setattr(self.stop, "name", "SIGTERM"))

    def lines(self, *events):
        return [line for line in read(self.folder.path) if line["event"] in events]


@pytest.fixture
def case(tmp_path):
    return lambda **pbt: Case(tmp_path, **pbt)


def leader(case):
    """Make the second member the better one, from the start."""
    case.simulation.faults = {"0-01": {"weight": 5.0}}
    return case


PHASES = list(MemberPhase)


@pytest.mark.parametrize("after", PHASES)
@pytest.mark.parametrize("before", PHASES)
def test_a_phase_changes_only_as_the_table_allows(tmp_path, before, after):
    status = Status(0, 0, {}, 0, {}, 0.0)
    member = MemberState("k", 0, 0, RunFolder(tmp_path), MemberInit(1, {}), status, phase=before)
    turn = Turn(None, 0, "") if after is MemberPhase.STARTING else None
    exploit = Exploit(None, 1, None, 0.0, None) if after is MemberPhase.EXPLOITING else None
    if after in NEXT_PHASES[before]:
        member.enter(after, 3.0, turn, exploit)
        assert (member.phase, member.since, member.turn, member.exploit) == (after, 3.0, turn, exploit)
        with pytest.raises(RuntimeError):
            member.enter(MemberPhase.STARTING, 4.0)  # with no process
    else:
        with pytest.raises(RuntimeError, match=f"{before.name} must not become {after.name}"):
            member.enter(after, 3.0, turn, exploit)
        assert member.phase is before


def test_final_phases_and_words_of_reports():
    assert {phase for phase in PHASES if phase.final} == {MemberPhase.DONE, MemberPhase.GIVEN_UP}
    assert {phase.report for phase in PHASES} == {"runs", "waits", "done", "given up"}


def test_the_worse_member_copies_the_better_and_all_are_done(case):
    case = leader(case())
    result = case.run()
    assert result.status == "done"
    assert [member.state for member in result.members] == ["done", "done"]
    assert result.copies == 1  # then both are equal, and only explore
    [copy] = [line for line in case.lines("applied") if line["copied"]]
    assert copy["member"] == "0-00"
    assert copy["digest"]
    assert case.simulation.members["0-00"].weight == 5.0
    assert len(case.lines("decision")) == len(case.lines("applied")) > 4
    assert case.reports[0] == (4.0, ["runs", "runs"], 0)
    assert [line["event"] for line in read(case.folder.path)][-3:].count("done") == 2


def test_members_take_turns_and_one_that_waits_is_copied_from_its_checkpoint(case):
    case = leader(case(concurrent=1))
    result = case.run()
    assert result.status == "done"
    starts = [key for _, key in case.simulation.starts]
    assert starts[:4] == ["0-00", "0-01", "0-00", "0-01"]
    assert case.simulation.starts[1][0] > 5.0
    assert {tuple(states) for _, states, _ in case.reports} >= {("runs", "waits"), ("waits", "runs")}
    assert result.copies >= 1
    assert case.simulation.members["0-00"].weight == 5.0


def test_a_member_that_dies_restarts_after_a_pause_that_doubles_and_is_given_up(case):
    case = case()

    def die():
        case.simulation.members["0-00"].die("out of memory")

    for time in (1.0, 7.0, 18.0):
        case.at(time, die)
    result = case.run()
    assert [member.state for member in result.members] == ["given up", "done"]
    died = case.lines("died")
    assert [(line["in_a_row"], line["error"]) for line in died] == [(n, "out of memory") for n in (1, 2, 3)]
    first, second, third = [time for time, key in case.simulation.starts if key == "0-00"]
    assert 5 <= second - first - 1.0 < 6
    assert 10 <= third - 7.0 < 11
    [line] = case.lines("given_up")
    assert line["reason"] == "out of memory"
    assert [s["member"] for s in case.lines("ended")[0]["standings"]] == ["0-01"]


def test_the_pause_before_a_restart_has_an_upper_limit(case, monkeypatch):
    monkeypatch.setattr(member_pool, "LONGEST_PAUSE_S", 7.0)
    case = case()
    for time in (1.0, 7.0):
        case.at(time, lambda: case.simulation.members["0-00"].die())
    case.run()
    third = [time for time, key in case.simulation.starts if key == "0-00"][2]
    assert 7 <= third - 7.0 < 8


def test_a_checkpoint_between_deaths_begins_the_count_anew(case):
    case = case()

    def die_after_a_checkpoint():
        case.simulation.members["0-00"].save()
        case.simulation.members["0-00"].die()

    for time in (2.0, 9.0, 16.0, 23.0):
        case.at(time, die_after_a_checkpoint)
    assert [member.state for member in case.run().members] == ["done", "done"]
    assert [line["in_a_row"] for line in case.lines("died")] == [1, 1, 1, 1]


def test_a_population_whose_members_are_all_given_up_fails(case):
    case = case(max_deaths_in_a_row=1)
    for time, key in ((1.0, "0-00"), (2.0, "0-01")):
        case.at(time, lambda key=key: case.simulation.members[key].die(f"end of {key}"))
    with pytest.raises(TrainingError, match="all members were given up; the last, 0-01: end of 0-01"):
        case.run()


def test_a_donor_that_sends_no_state_is_not_waited_for(case):
    case = leader(case(frames=int(FPS * (EXPLOIT_S + 50)), slice_s=1e9, ready_episodes=2000))
    case.simulation.faults["0-01"] |= {"mute": True}
    case.run()
    abandoned = case.lines("abandoned")
    assert abandoned[0]["reason"] == "0-01 sent no state"
    assert {line["reason"] for line in abandoned[1:]} <= {"0-01 sent no state", "its run ended"}
    assert {line["member"] for line in abandoned} == {"0-00"}
    assert not case.lines("died")


def test_a_copy_that_is_not_done_in_time_restarts_the_member(case):
    case = leader(case(frames=int(FPS * (EXPLOIT_S + 50)), ready_episodes=2000))
    case.simulation.faults["0-00"] = {"frozen": True}
    case.at(EXPLOIT_S, lambda: case.simulation.faults.pop("0-00"))
    case.run()
    assert case.lines("died")[0]["error"] == f"a copy was not done in {EXPLOIT_S:g} s"
    assert case.lines("abandoned")[0]["reason"] == "its run ended"


def test_a_member_that_refuses_decides_again_after_a_pause(case):
    case = case()
    case.simulation.faults["0-00"] = {"refuses": Busy("no\nit stops")}
    case.run()
    abandoned = case.lines("abandoned")
    assert {(line["member"], line["reason"]) for line in abandoned} == {("0-00", "it stops")}
    generations = [line["generation"] for line in abandoned]
    assert generations == list(range(1, len(generations) + 1))
    assert 5 < len(generations) < 8  # in 35 seconds, every 5 seconds


@pytest.mark.parametrize(("loaded", "outcome"), [(True, "applied"), (False, "abandoned")])
def test_a_death_in_the_middle_of_a_decision_leaves_its_checkpoint_to_tell(case, loaded, outcome):
    case = case()

    def load_and_die(self, generation, parameters, donor, expected):
        if loaded:
            Member.load_member(self, generation, parameters, donor, expected)
        self.die()
        return Ref(error=CallError(RunFailed("killed")))

    case.simulation.faults["0-00"] = {
        "load_member": lambda *args: load_and_die(case.simulation.members["0-00"], *args)
    }
    case.at(15.0, lambda: case.simulation.faults.clear())
    case.run()
    first = [line["event"] for line in read(case.folder.path) if line.get("member") == "0-00"][:4]
    assert first == ["born", "decision", "died", outcome]


def test_a_stop_ends_members_that_start_at_once_and_others_with_a_checkpoint(case):
    case = case(members=3, concurrent=3)
    case.simulation.faults["0-02"] = {"status": lambda fitness: Ref(None)}  # it never begins to train
    case.stop_at(6.0)
    result = case.run()
    assert result.status == "interrupted"
    assert [member.state for member in result.members] == ["waits"] * 3
    saved = [
        bool(checkpoints.steps(RunFolder(case.folder.path / "members" / f"0-0{i}").checkpoints)) for i in range(3)
    ]
    assert saved == [True, True, False]
    [ended] = case.lines("ended")
    assert (ended["how"], ended["signal"]) == ("interrupted", "SIGTERM")
    again = Case(case.folder.path, members=3)
    assert again.run().status == "done"
    assert len(again.lines("born")) == 3


def test_a_member_that_does_not_stop_is_killed(case):
    case = case(frames=10**6)
    case.simulation.faults["0-01"] = {"deaf": True}
    case.stop_at(6.0)
    assert case.run().status == "interrupted"
    assert case.lines("died")[0]["error"] == f"did not stop in {STOP_S:g} s"
    assert case.simulation.time > 6.0 + STOP_S


def test_a_journal_behind_a_checkpoint_takes_its_word(case):
    case = case(threshold=1e9)
    case.stop_at(15.0)
    case.run()
    member = RunFolder(case.folder.path / "members" / "0-00")
    saved = checkpoints.load(member.checkpoints)
    state = saved.run["member"] | {"generation": 0, "parameters": {KEY: 0.003}}
    checkpoints.save(member.checkpoints, saved.learner, saved.run | {"member": state}, saved.meta, 2)
    again = Case(case.folder.path, threshold=1e9)
    again.stop_at(0.5)
    again.run()
    [line] = again.lines("restored")
    assert (line["member"], line["generation"], line["parameters"]) == ("0-00", 0, {KEY: 0.003})


def test_a_checkpoint_without_what_a_member_needs_is_passed_over(case):
    case = case(threshold=1e9)
    case.stop_at(15.0)
    case.run()
    member = RunFolder(case.folder.path / "members" / "0-00")
    saved = checkpoints.load(member.checkpoints)
    frames = saved.meta["env_frames"]
    run = {key: value for key, value in saved.run.items() if key != "member"}
    checkpoints.save(member.checkpoints, saved.learner, run, saved.meta | {"env_frames": frames + 1}, 2)
    with pytest.warns(UserWarning, match=f"no state as a member of a population.*going on with {frames:015d}"):
        pool = MemberPool(
            case.config, make_suite(case.config.env), case.folder, Journal(case.folder.path), [], case.simulation,
            case.simulation.make,
        )  # fmt: skip
    assert pool.members[0].phase is MemberPhase.WAITING
    assert pool.members[0].status.env_frames == frames
    population = Population.__new__(Population)
    population._config, population._suite, population._port = case.config, pool._suite, case.simulation
    with pytest.warns(UserWarning, match=f"going on with {frames:015d}"):
        donated = population._donor_state(pool.members[0]).value
    assert checkpoints.digest(donated) == checkpoints.digest(saved.learner)
