"""The controller of populations: members as Ray processes, their turns, their decisions, their deaths.

It decides when a member is ready, from what is known of the others at that moment, and nobody waits: to copy, the
donor's state goes from its learner to the member's through the object store while both keep their actors. A donor
that waits for its turn is read from its checkpoint. The order is always: journal, copy, new parameters, read back,
checkpoint, journal; whoever dies on the way leaves a member that is one or the other, never half of each.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import ray

from impala_mi.envs.base import Suite
from impala_mi.errors import TrainingError, UserError
from impala_mi.host.signals import StopSignal
from impala_mi.pbt.capacity import at_a_time, check_population, check_room
from impala_mi.pbt.exploit import Rule, Standing, decide, fitnesses
from impala_mi.pbt.journal import Journal, birth, decision_line
from impala_mi.pbt.member_state import Exploit, MemberState
from impala_mi.pbt.settings import PopulationConfig
from impala_mi.pbt.worker import Birth, MemberProcess, RunFailed, Status, saved_status
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.checkpoint import digest
from impala_mi.runs.folder import RunFolder
from impala_mi.runs.metrics import MetricsWriter
from impala_mi.training.actor_pool import reason_of
from impala_mi.training.placement import place

ASK_EVERY_S = 1.0
EXPLOIT_S = 300.0
"""For a copy, from the decision to the answer; then the member is ended, and starts from its checkpoint."""
STOP_S = 120.0
"""For members that are told to stop."""
PAUSE_S = 5.0
"""Before a member that died starts again, or one whose copy failed decides again; doubled with deaths in a row."""


@dataclass(frozen=True)
class MemberReport:
    """For people."""

    key: str
    state: Literal["runs", "waits", "done", "given up"]
    status: Status
    fitness: float | None


Report = Callable[[float, Sequence[MemberReport], int], None]
"""Takes the seconds of training, the members and the number of copies."""


@dataclass(frozen=True)
class Result:
    """How a population ended."""

    status: Literal["done", "interrupted"]
    members: list[MemberReport]
    copies: int


def train(config: PopulationConfig, folder: RunFolder, report: Report) -> Result:
    """Train a population until every member has its `train.env_frames`, from the start or where it was left.

    Raises `UserError` before any member starts, and `TrainingError` where it cannot go on.
    """
    suite, rule = check_population(config)
    with StopSignal().installed() as stop, running_ray(config, suite, at_a_time(config)):
        stop.install()
        there = ray.cluster_resources()
        check_room(config, suite, there.get("CPU", 0), there.get("GPU", 0), "the cluster")
        with contextlib.ExitStack() as stack:
            try:
                controller = Population(config, suite, rule, folder, report, stop)
                stack.callback(controller.close)
                return controller.run()
            except (TrainingError, OSError) as e:
                message = str(e) if isinstance(e, TrainingError) else f"cannot write to {folder.path}: {e}"
                raise TrainingError(f"{message}; go on with: impala-mi resume {folder.path}") from None


class Population:
    """The controller's loop; see the module's docstring."""

    def __init__(
        self,
        config: PopulationConfig,
        suite: Suite,
        rule: Rule,
        folder: RunFolder,
        report: Report,
        stop: StopSignal,
    ) -> None:
        self._config, self._suite, self._rule = config, suite, rule
        self._folder, self._report, self._stop = folder, report, stop
        self._last_reason = ""
        self._journal = Journal(folder.path)
        self._journal.write("started", settings=config.pbt.model_dump())
        # Ray keeps what a process has reserved until the whole job ends: turns take over each other's room.
        self._free = place(config, at_a_time(config))
        self._seats = [
            self._take_seat(population, index)
            for population in range(config.pbt.populations)
            for index in range(config.pbt.members)
        ]
        self._writer = MetricsWriter(folder.path, self._frames() or None)
        self._began, self._told = time.monotonic(), time.monotonic()
        self._fitness: dict[str, float | None] = {}

    def run(self) -> Result:
        """Until all members are done or given up, or until stopped."""
        while self._stop.name is None and not all(seat.done or seat.given_up for seat in self._seats):
            self._turns()
            self._look()
            for population in range(self._config.pbt.populations):
                standings = self._standings(population)
                self._fitness |= {s.member: s.fitness for s in standings}
                for seat in [s for s in self._seats if s.population == population and s.process is not None]:
                    if seat.exploit is None:
                        self._decide(seat, standings)
                    else:
                        self._carry_on(seat, seat.exploit)
            if time.monotonic() - self._told >= self._config.train.log_every_s:
                self._tell()
            self._wait()
        self._stop_all()
        self._tell()
        if all(seat.given_up for seat in self._seats):
            raise TrainingError(f"all members are given up; the last, {self._last_reason}")
        status: Literal["done", "interrupted"] = "done" if self._stop.name is None else "interrupted"
        ended = [asdict(s) for p in range(self._config.pbt.populations) for s in self._standings(p)]
        self._journal.write("ended", how=status, signal=self._stop.name, standings=ended)
        return Result(status, self._reports(), self._copies())

    def close(self) -> None:
        """End every process."""
        for seat in self._seats:
            self._end(seat)
        with contextlib.suppress(OSError):  # a full disk must not hide what came before it
            self._journal.close()
            self._writer.close()

    # -- members ---------------------------------------------------------------------------

    def _take_seat(self, population: int, index: int) -> MemberState:
        """A member, new or as the journal and its last checkpoint left it."""
        key, config = f"{population}-{index:02d}", self._config
        if key not in self._journal.members:
            drawn = [config.seed, population, index, 0]
            first = birth(config.pbt, drawn)
            self._journal.write("born", member=key, population=population, seed=drawn, parameters=first)
        parameters = self._journal.members[key].parameters
        folder = RunFolder(self._folder.path / "members" / key)
        folder.path.mkdir(parents=True, exist_ok=True)
        seat = MemberState(
            key, population, index, folder,
            Birth(config.seed_of(population, index), parameters), Status(0, 0, {}, 0, parameters, 0.0),
        )  # fmt: skip
        self._settle(seat)
        return seat

    def _settle(self, seat: MemberState) -> None:
        """Take a member's standing from its last checkpoint, and have the journal agree with it."""
        history, generation, parameters = self._journal.members[seat.key], 0, seat.birth.parameters
        if seat.newest:
            try:
                found = checkpoints.load(seat.folder.checkpoints)
            except UserError as e:
                self._give_up(seat, str(e))
                return
            seat.status = saved_status(self._config, self._suite.levels, found)
            seat.done = seat.status.env_frames >= self._config.train.env_frames
            generation, parameters = seat.status.generation, seat.status.parameters
        if history.open is not None:
            decided = history.open["generation"]
            if generation == decided:
                copied = history.open["donor"] is not None
                self._journal.write("applied", member=seat.key, generation=decided, copied=copied, digest=None)
            else:
                self._journal.write("abandoned", member=seat.key, generation=decided, reason="its run ended")
        seat.exploit = None
        if generation != history.generation:
            self._journal.write("restored", member=seat.key, generation=generation, parameters=parameters)

    def _give_up(self, seat: MemberState, reason: str) -> None:
        seat.given_up, seat.exploit = True, None
        self._journal.write("given_up", member=seat.key, reason=reason)
        self._last_reason = f"{seat.key}: {reason}"

    def _start(self, seat: MemberState) -> None:
        if seat.deaths:
            self._settle(seat)  # again: what died may have had a last word
            if seat.given_up:
                return
        seat.saved, seat.frames_before = seat.newest, seat.status.env_frames
        seat.process = MemberProcess(self._config, seat.folder.path, seat.birth, self._free.pop())
        seat.began_at, seat.stopping_since, seat.asked = None, None, None

    def _end(self, seat: MemberState) -> None:
        """End its process, and with it what it started."""
        if seat.process is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                seat.process.kill()
            self._free.append(seat.process.places)
        seat.process, seat.asked, seat.stopping_since = None, None, None

    def _take_ended(self, seat: MemberState, ended: "ray.ObjectRef[str]") -> None:
        """A member's run is over: done, at the end of its turn, or dead."""
        try:
            how = ray.get(ended)
        except ray.exceptions.RayError as e:
            self._died(seat, reason_of(e))
            return
        seat.deaths = 0
        self._end(seat)
        self._settle(seat)
        if how == "done":
            seat.done = True
            self._journal.write("done", member=seat.key, env_frames=seat.status.env_frames)

    def _died(self, seat: MemberState, reason: str) -> None:
        """It starts again from its last checkpoint, unless it has died too often."""
        self._end(seat)
        seat.deaths = seat.deaths + 1 if seat.newest == seat.saved else 1
        seat.not_before = time.monotonic() + PAUSE_S * 2 ** (seat.deaths - 1)
        self._journal.write("died", member=seat.key, error=reason, in_a_row=seat.deaths)
        self._settle(seat)
        if seat.deaths >= self._config.pbt.max_deaths_in_a_row and not seat.given_up:
            self._give_up(seat, reason)

    # -- turns -----------------------------------------------------------------------------

    def _turns(self) -> None:
        """Give turns to those who have come least far, and end turns that are over."""
        now = time.monotonic()
        running = [seat for seat in self._seats if seat.process is not None]
        waiting = sorted(
            (s for s in self._seats if self._state(s) == "waits" and now >= s.not_before),
            key=lambda s: (s.status.env_frames, s.key),
        )
        free = len(self._free)
        for seat in waiting[:free]:
            self._start(seat)
        waiting = waiting[free:]
        # Each that stops makes room for the next of those that wait.
        next_up = waiting[sum(seat.stopping_since is not None for seat in running) :]
        for seat in sorted(running, key=lambda seat: -seat.status.env_frames):
            over = seat.began_at is not None and now - seat.began_at > self._config.pbt.slice_s
            free_to_go = over and seat.stopping_since is None and not self._engaged(seat)
            if next_up and free_to_go and seat.status.env_frames >= next_up[0].status.env_frames:
                self._pause(seat)
                next_up.pop(0)

    def _state(self, seat: MemberState) -> Literal["runs", "waits", "done", "given up"]:
        if seat.process is not None:
            return "runs"
        return "done" if seat.done else "given up" if seat.given_up else "waits"

    def _pause(self, seat: MemberState) -> None:
        assert seat.process is not None
        seat.process.stop()
        seat.stopping_since = time.monotonic()

    def _engaged(self, seat: MemberState) -> bool:
        """Whether it copies or is copied."""
        return seat.exploit is not None or any(
            s.exploit is not None and s.exploit.donor is seat for s in self._seats
        )

    def _look(self) -> None:
        """Take what members tell, and ask again; end those that do not stop."""
        now = time.monotonic()
        for seat in self._seats:
            if seat.process is None:
                continue
            if ray.wait([seat.process.ended], timeout=0)[0]:
                self._take_ended(seat, seat.process.ended)
                continue
            if seat.stopping_since is not None and now - seat.stopping_since > STOP_S:
                self._died(seat, f"did not stop in {STOP_S:g} s")
                continue
            if seat.asked is not None and ray.wait([seat.asked], timeout=0)[0]:
                with contextlib.suppress(ray.exceptions.RayError):  # its death is found out by its run
                    seat.status = ray.get(seat.asked) or seat.status
                seat.asked = None
                if seat.began_at is None and seat.status.env_frames > seat.frames_before:
                    seat.began_at = now
            if seat.asked is None and now - seat.asked_at >= ASK_EVERY_S:
                seat.asked, seat.asked_at = seat.process.status(self._fitness.get(seat.key)), now

    def _wait(self) -> None:
        """Until something may have happened."""
        running = [seat.process.ended for seat in self._seats if seat.process is not None]
        if running:
            ray.wait(running, timeout=0.25)
        else:
            time.sleep(0.25)

    def _stop_all(self) -> None:
        """Have all end with a checkpoint; what was being copied is one or the other."""
        for seat in self._seats:
            if seat.process is not None and seat.began_at is None and seat.exploit is None:
                self._end(seat)  # while it starts it does not listen, and nothing is lost
            elif seat.process is not None:
                self._pause(seat)
        while any(seat.process is not None for seat in self._seats):
            self._look()
            self._wait()

    # -- decisions -------------------------------------------------------------------------

    def _standings(self, population: int) -> list[Standing]:
        """Of a population; members that were given up no longer count."""
        seats = [s for s in self._seats if s.population == population and not s.given_up]
        known = fitnesses(self._suite.levels, {s.key: s.status.returns for s in seats})
        return [
            Standing(s.key, s.status.env_frames, s.status.episodes, known[s.key], dict(s.status.parameters))
            for s in seats
        ]

    def _decide(self, seat: MemberState, standings: Sequence[Standing]) -> None:
        """A member that is ready decides, and begins to carry it out."""
        history = self._journal.members[seat.key]
        trains = seat.began_at is not None and seat.stopping_since is None
        if not trains or self._stale(seat) or time.monotonic() < seat.not_before:
            return
        [me] = [s for s in standings if s.member == seat.key]
        if not self._rule.ready(me):
            return
        generation, pbt = history.latest + 1, self._config.pbt
        seed = [self._config.seed, seat.population, seat.index, generation]
        decision = decide(self._rule, me, [s for s in standings if s is not me], pbt.space, seed)
        donor = next((s for s in self._seats if s.key == decision.donor), None)
        if donor is not None and (
            donor.exploit is not None or donor.stopping_since is not None or self._stale(donor)
        ):
            return  # in a moment it is another, or waits
        self._journal.write("decision", **decision_line(me, generation, seed, standings, decision))
        try:
            state = None if donor is None else self._state_of(donor)
        except UserError as e:
            self._abandon(seat, generation, str(e))
        else:
            seat.exploit = Exploit(decision, generation, donor, time.monotonic(), state)

    def _stale(self, seat: MemberState) -> bool:
        """Whether it has not told anything since its last decision."""
        return seat.status.generation != self._journal.members[seat.key].generation

    def _state_of(self, donor: MemberState) -> "ray.ObjectRef[dict[str, Any]]":
        """What its learner has learnt; of one that waits, from its checkpoint. Raises `UserError`."""
        if donor.process is not None:
            return donor.process.state(donor.status.generation)
        return ray.put(checkpoints.load(donor.folder.checkpoints).learner)

    def _abandon(self, seat: MemberState, generation: int, reason: str) -> None:
        """It stays as it is, and may decide again in a moment."""
        self._journal.write("abandoned", member=seat.key, generation=generation, reason=reason)
        seat.exploit, seat.not_before = None, time.monotonic() + PAUSE_S

    def _carry_on(self, seat: MemberState, exploit: Exploit) -> None:
        """Have the member adopt what its donor gave, then take the outcome."""
        now, process = time.monotonic(), seat.process
        late = now - exploit.since > EXPLOIT_S
        if process is None:
            return
        try:
            if exploit.adopting is None:
                if exploit.state is not None:
                    if not ray.wait([exploit.state], timeout=0)[0]:
                        if late:
                            self._abandon(seat, exploit.generation, f"{exploit.decision.donor} gave nothing")
                        return
                    exploit.digest = digest(ray.get(exploit.state))
                after = exploit.decision.after
                exploit.adopting = process.adopt(exploit.generation, after, exploit.state, exploit.digest)
                exploit.since = now
                return
            if not ray.wait([exploit.adopting], timeout=0)[0]:
                if late:
                    self._died(seat, f"a copy was not done in {EXPLOIT_S:g} s")
                return
            ray.get(exploit.adopting)
        except ray.exceptions.RayError as e:
            # If its run is over, `_look` finds that out, and its checkpoint tells whether it copied.
            over = isinstance(e, ray.exceptions.RayActorError) or isinstance(getattr(e, "cause", None), RunFailed)
            if exploit.adopting is None or not over:
                self._abandon(seat, exploit.generation, reason_of(e))
            return
        copied, held = exploit.donor is not None, exploit.digest
        self._journal.write("applied", member=seat.key, generation=exploit.generation, copied=copied, digest=held)
        seat.exploit = None

    # -- records ---------------------------------------------------------------------------

    def _frames(self) -> int:
        return sum(seat.status.env_frames for seat in self._seats)

    def _copies(self) -> int:
        return sum(history.copies for history in self._journal.members.values())

    def _reports(self) -> list[MemberReport]:
        known = {s.member: s.fitness for p in range(self._config.pbt.populations) for s in self._standings(p)}
        return [MemberReport(s.key, self._state(s), s.status, known.get(s.key)) for s in self._seats]

    def _tell(self) -> None:
        """One record, for people and programs."""
        reports, self._told = self._reports(), time.monotonic()
        record = {"time_s": self._told - self._began, "env_frames": float(self._frames())}
        record["fps"] = sum(r.status.fps for r in reports if r.state == "runs")
        record["pbt/copies"] = self._copies()
        for population in range(self._config.pbt.populations):
            found = [r.fitness for s, r in zip(self._seats, reports, strict=True) if s.population == population]
            if fit := [f for f in found if f is not None]:
                record |= {f"pbt/{population}/best": max(fit), f"pbt/{population}/mean": sum(fit) / len(fit)}
        self._writer.write(record)
        self._report(record["time_s"], reports, self._copies())
