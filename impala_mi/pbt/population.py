"""Controller of populations: it starts and stops members, lets them take turns, and carries out their decisions.

A decision is made when a member is ready, from the latest rankings; nobody waits for others. To copy a donor, its
learner's state goes through the object store while both members keep their actors; a donor without a process is
read from its checkpoint. The order is always: journal, copy, new hyperparameters, read back, checkpoint, journal. A
process that dies in between leaves a member with either its old or its new state, never a mixture.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import ray

from impala_mi.envs.base import Suite
from impala_mi.errors import TrainingError, UserError
from impala_mi.host.port import Port
from impala_mi.host.signals import StopSignal
from impala_mi.pbt.capacity import check_capacity, check_population, concurrent_members
from impala_mi.pbt.exploit import Ranking, Rule, decide, fitnesses
from impala_mi.pbt.journal import Journal, decision_line
from impala_mi.pbt.member_pool import PAUSE_S, MakeMember, MemberPool
from impala_mi.pbt.member_state import Exploit, MemberPhase, MemberState, Turn
from impala_mi.pbt.settings import PopulationConfig
from impala_mi.pbt.worker import MemberProcess, RunFailed, Status, load_member_checkpoint
from impala_mi.runs.checkpoint import digest
from impala_mi.runs.folder import RunFolder
from impala_mi.runs.sinks import RunInfo, Sinks, local_sinks
from impala_mi.training.placement import Places, reserve
from impala_mi.training.ray_port import RAY
from impala_mi.training.restart_budget import reason_of

EXPLOIT_S = 300.0
"""Timeout of each step of a copy; a member that exceeds it restarts from its checkpoint."""


@dataclass(frozen=True)
class MemberReport:
    """A member as progress reports show it."""

    key: str
    state: str
    """`runs`, `waits`, `done` or `given up`."""
    status: Status
    fitness: float | None


OnProgress = Callable[[float, Sequence[MemberReport], int], None]
"""Takes the seconds of training, the members and the number of copies."""


@dataclass(frozen=True)
class PopulationResult:
    """End of a population's training."""

    status: Literal["done", "interrupted"]
    members: list[MemberReport]
    copies: int


def train(config: PopulationConfig, folder: RunFolder, on_progress: OnProgress) -> PopulationResult:
    """Train a new or resumed population until every member has its `train.env_frames`.

    Raises `UserError` before any member starts, and `TrainingError` if training cannot continue.
    """
    suite, rule = check_population(config)
    with StopSignal().installed() as stop, running_ray(config, suite, concurrent_members(config)):
        stop.install()
        total = ray.cluster_resources()
        check_capacity(config, suite, total.get("CPU", 0), total.get("GPU", 0), "the cluster")
        try:
            # Ray keeps the resources of a process reserved until the job ends: members reuse each other's places.
            places = reserve(config, concurrent_members(config))
            controller = Population(config, suite, rule, folder, on_progress, stop, places)
            try:
                return controller.run()
            finally:
                controller.close()
        except (TrainingError, OSError) as e:
            message = str(e) if isinstance(e, TrainingError) else f"cannot write to {folder.path}: {e}"
            raise TrainingError(f"{message}; continue with: impala-mi resume {folder.path}") from None


class Population:
    """The controller; see the module's docstring.

    Args:
        config: configuration of the populations.
        suite: suite that the members play.
        rule: rule of their decisions.
        folder: folder of the populations, with the journal.
        on_progress: called with every record.
        stop: signal on which all members stop.
        places: reserved resources, one entry per member that runs at a time.
        port: Ray and the clock; tests pass a fake.
        make_member: makes the process of a member; tests pass a fake.
    """

    def __init__(
        self,
        config: PopulationConfig,
        suite: Suite,
        rule: Rule,
        folder: RunFolder,
        on_progress: OnProgress,
        stop: StopSignal,
        places: Sequence[Places],
        port: Port = RAY,
        make_member: MakeMember = MemberProcess,
    ) -> None:
        self._config, self._suite, self._rule = config, suite, rule
        self._on_progress, self._stop, self._port = on_progress, stop, port
        self._journal = Journal(folder.path)
        self._journal.write("started", settings=config.pbt.model_dump())
        self._pool = MemberPool(config, suite, folder, self._journal, places, port, make_member)
        self._members, self._populations = self._pool.members, range(config.pbt.populations)
        self._sinks = Sinks(local_sinks(RunInfo(folder.path, config, resumed_at=self._frames() or None)))
        self._started_at = self._recorded_at = port.now()
        self._fitness: dict[str, float | None] = {}

    def run(self) -> PopulationResult:
        """Train until all members are done or given up, or until the stop signal."""
        while self._stop.name is None and not all(member.phase.final for member in self._members):
            self._schedule()
            self._advance_copies()  # before the poll: a run that has ended may have loaded its copy
            self._pool.poll(self._fitness)
            for population in self._populations:
                self._decide_all(population)
            if self._port.now() - self._recorded_at >= self._config.train.log_every_s:
                self._record()
            self._pool.wait()
        self._pool.stop()
        self._record()
        if all(member.phase is MemberPhase.GIVEN_UP for member in self._members):
            raise TrainingError(f"all members were given up; the last, {self._pool.last_reason}")
        status: Literal["done", "interrupted"] = "done" if self._stop.name is None else "interrupted"
        standings = [asdict(ranking) for p in self._populations for ranking in self._rankings(p)]
        self._journal.write("ended", how=status, signal=self._stop.name, standings=standings)
        return PopulationResult(status, self._reports(), self._copies())

    def close(self) -> None:
        """Kill all processes and close the files."""
        self._pool.close()
        with contextlib.suppress(OSError):  # a full disk must not hide the error before it
            self._journal.close()
            self._sinks.close()

    # -- turns -----------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Start the waiting members with the fewest frames, and end turns that are over."""
        now, running = self._port.now(), list(self._pool.running())
        waiting = sorted(
            (m for m in self._members if m.phase is MemberPhase.WAITING and now >= m.not_before),
            key=lambda m: (m.status.env_frames, m.key),
        )
        free = len(self._pool.free)
        for member in waiting[:free]:
            self._pool.start(member)
        stopping = sum(member.phase is MemberPhase.STOPPING for member, _ in running)
        next_up = waiting[free + stopping :]  # each member that stops frees the place of one that waits
        donors = {m.exploit.decision.donor for m in self._members if m.exploit is not None}
        for member, turn in sorted(running, key=lambda pair: -pair[0].status.env_frames):
            over = now - turn.training_since > self._config.pbt.slice_s and member.key not in donors
            if member.phase is not MemberPhase.TRAINING or not over or not next_up:
                continue
            if member.status.env_frames >= next_up[0].status.env_frames:
                self._pool.pause(member)
                next_up.pop(0)

    # -- decisions -------------------------------------------------------------------------

    def _rankings(self, population: int) -> list[Ranking]:
        """Rankings of a population's members, without those that were given up."""
        members = [m for m in self._members if m.population == population and m.phase is not MemberPhase.GIVEN_UP]
        fitness = fitnesses(self._suite.levels, {m.key: m.status.returns for m in members})
        return [
            Ranking(m.key, m.status.env_frames, m.status.episodes, fitness[m.key], dict(m.status.parameters))
            for m in members
        ]

    def _advance_copies(self) -> None:
        """Advance the decisions that are being carried out."""
        for member, turn in list(self._pool.running()):
            if member.exploit is not None:
                self._advance(member, turn, member.exploit)

    def _decide_all(self, population: int) -> None:
        """Let the members of a population decide that are ready to."""
        rankings = self._rankings(population)
        self._fitness |= {ranking.member: ranking.fitness for ranking in rankings}
        for member, _ in self._pool.running():
            if member.population == population and member.phase is MemberPhase.TRAINING:
                self._decide(member, rankings)

    def _decide(self, member: MemberState, rankings: Sequence[Ranking]) -> None:
        """Make the decision of a member that is ready, and begin to carry it out."""
        if self._stale(member) or self._port.now() < member.not_before:
            return
        [me] = [ranking for ranking in rankings if ranking.member == member.key]
        if not self._rule.ready(me):
            return
        generation = self._journal.members[member.key].latest + 1
        seed = [self._config.seed, member.population, member.index, generation]
        rivals = [ranking for ranking in rankings if ranking is not me]
        decision = decide(self._rule, me, rivals, self._config.pbt.space, seed)
        donor = next((m for m in self._members if m.key == decision.donor), None)
        changing = (MemberPhase.EXPLOITING, MemberPhase.STOPPING)
        if donor is not None and (donor.phase in changing or self._stale(donor)):
            return  # its ranking is about to change
        self._journal.write("decision", **decision_line(me, generation, seed, rankings, decision))
        try:
            state = None if donor is None else self._donor_state(donor)
        except UserError as e:
            self._abandon(member, generation, str(e))
            return
        now = self._port.now()
        exploit = Exploit(decision, generation, donor, now, state)
        member.enter(MemberPhase.EXPLOITING, now, exploit=exploit)

    def _donor_state(self, donor: MemberState) -> Any:
        """Reference of a donor's learner state; raises `UserError` if its checkpoint cannot be read."""
        if donor.turn is not None:
            return donor.turn.process.state(donor.status.generation)
        saved = load_member_checkpoint(self._config, self._suite, donor.folder, donor.init.seed)
        return self._port.put(saved.learner)

    def _stale(self, member: MemberState) -> bool:
        """Whether a member has not reported since its last decision."""
        return member.status.generation != self._journal.members[member.key].generation

    def _abandon(self, member: MemberState, generation: int, reason: str) -> None:
        """Leave a member as it is; it may decide again after a pause."""
        now = self._port.now()
        self._journal.write("abandoned", member=member.key, generation=generation, reason=reason)
        member.not_before = now + PAUSE_S
        if member.phase is MemberPhase.EXPLOITING:
            member.enter(MemberPhase.TRAINING, now)

    def _advance(self, member: MemberState, turn: Turn, exploit: Exploit) -> None:
        """Advance a decision by one step: load the donor's state when it has come, journal it when it is loaded."""
        now = self._port.now()
        late = now - exploit.since > EXPLOIT_S
        try:
            if exploit.loading is None:
                if exploit.state is not None:
                    if not self._pool.ready(exploit.state):
                        if late:
                            self._abandon(member, exploit.generation, f"{exploit.decision.donor} sent no state")
                        return
                    exploit.digest = digest(self._port.get(exploit.state))
                after = exploit.decision.after
                exploit.loading = turn.process.load_member(exploit.generation, after, exploit.state, exploit.digest)
                exploit.since = now
                return
            if not self._pool.ready(exploit.loading):
                if late:
                    self._pool.restart(member, f"a copy was not done in {EXPLOIT_S:g} s")
                return
            self._port.get(exploit.loading)
        except ray.exceptions.RayError as e:
            # If the run is over, the pool notices, and the checkpoint tells whether the decision was applied.
            over = isinstance(e, ray.exceptions.RayActorError) or isinstance(getattr(e, "cause", None), RunFailed)
            if exploit.loading is None or not over:
                self._abandon(member, exploit.generation, reason_of(e))
            return
        copied = exploit.donor is not None
        self._journal.write(
            "applied", member=member.key, generation=exploit.generation, copied=copied, digest=exploit.digest
        )
        member.enter(MemberPhase.TRAINING, now)

    # -- records ---------------------------------------------------------------------------

    def _frames(self) -> int:
        return sum(member.status.env_frames for member in self._members)

    def _copies(self) -> int:
        return sum(journaled.copies for journaled in self._journal.members.values())

    def _reports(self) -> list[MemberReport]:
        fitness = {ranking.member: ranking.fitness for p in self._populations for ranking in self._rankings(p)}
        return [MemberReport(m.key, m.phase.report, m.status, fitness.get(m.key)) for m in self._members]

    def _record(self) -> None:
        """Write one record and report it."""
        reports, self._recorded_at = self._reports(), self._port.now()
        record = {"time_s": self._recorded_at - self._started_at, "env_frames": float(self._frames())}
        record["fps"] = sum(report.status.fps for report in reports if report.state == "runs")
        record["pbt/copies"] = self._copies()
        for population in self._populations:
            known = [
                report.fitness
                for member, report in zip(self._members, reports, strict=True)
                if member.population == population and report.fitness is not None
            ]
            if known:
                record |= {f"pbt/{population}/best": max(known), f"pbt/{population}/mean": sum(known) / len(known)}
        self._sinks.write(record)
        self._on_progress(record["time_s"], reports, self._copies())
