"""Members of a run's populations and their processes: started, polled, stopped, restarted, given up.

A member that dies restarts from its last checkpoint after a pause that doubles. After several deaths in a row
without a checkpoint in between it is given up.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray

from impala_mi.envs.base import Suite
from impala_mi.errors import UserError
from impala_mi.host.backoff import backoff
from impala_mi.host.port import Port
from impala_mi.pbt.journal import Journal, initial_parameters
from impala_mi.pbt.member_state import MemberPhase, MemberState, Turn
from impala_mi.pbt.settings import PopulationConfig
from impala_mi.pbt.worker import MemberInit, MemberProcess, Status, load_member_checkpoint, saved_status
from impala_mi.runs.folder import RunFolder
from impala_mi.training.placement import Places
from impala_mi.training.restart_budget import reason_of

POLL_EVERY_S = 1.0
"""Seconds between two status requests to a member."""
WAIT_S = 0.25
"""Longest pause of the controller's loop, in seconds."""
STOP_S = 120.0
"""Timeout of members that were told to stop."""
PAUSE_S = 5.0
"""Pause before the first restart of a member, in seconds; doubles with deaths in a row."""
LONGEST_PAUSE_S = 3600.0
"""Longest pause before a restart of a member, in seconds."""

MakeMember = Callable[[PopulationConfig, RunFolder, MemberInit, Places], MemberProcess]


class MemberPool:
    """Members of all populations; see the module's docstring.

    Args:
        config: configuration of the populations.
        suite: suite that the members play.
        folder: folder of the populations.
        journal: journal of that folder.
        places: reserved resources, one entry per member that runs at a time.
        port: Ray and the clock.
        make_member: makes the process of a member.
    """

    def __init__(
        self,
        config: PopulationConfig,
        suite: Suite,
        folder: RunFolder,
        journal: Journal,
        places: Sequence[Places],
        port: Port,
        make_member: MakeMember = MemberProcess,
    ) -> None:
        self._config, self._suite, self._folder, self._journal = config, suite, folder, journal
        self._port, self._make_member = port, make_member
        self.free = list(places)
        self.last_reason = ""
        """Reason why a member was given up, the latest."""
        pbt = config.pbt
        self.members = [self._load(p, index) for p in range(pbt.populations) for index in range(pbt.members)]

    def running(self) -> Iterator[tuple[MemberState, Turn]]:
        """Members that have a process, with their turns."""
        yield from [(member, member.turn) for member in self.members if member.turn is not None]

    def start(self, member: MemberState) -> None:
        """Start the process of a waiting member in a free place."""
        if member.deaths:
            self._settle(member)  # again: the process may have saved a checkpoint while it died
            if member.phase is not MemberPhase.WAITING:
                return
        process = self._make_member(self._config, member.folder, member.init, self.free.pop())
        turn = Turn(process, member.status.env_frames, member.newest_checkpoint)
        member.enter(MemberPhase.STARTING, self._port.now(), turn=turn)

    def pause(self, member: MemberState) -> None:
        """Tell a member that trains to end its turn with a checkpoint."""
        assert member.turn is not None
        member.turn.process.stop()
        member.enter(MemberPhase.STOPPING, self._port.now())

    def poll(self, fitness: Mapping[str, float | None]) -> None:
        """Read the statuses of members and ask for the next; handle runs that ended or do not stop.

        Args:
            fitness: fitness of members by key, for their records.
        """
        now = self._port.now()
        for member, turn in self.running():
            if self.ready(turn.process.ended):
                self._finish(member, turn)
            elif member.phase is MemberPhase.STOPPING and now - member.since > STOP_S:
                self.restart(member, f"did not stop in {STOP_S:g} s")
            else:
                self._poll_status(member, turn, fitness.get(member.key))

    def restart(self, member: MemberState, reason: str) -> None:
        """Restart a member from its last checkpoint after a pause, or give it up after too many deaths in a row."""
        assert member.turn is not None
        before = member.turn.checkpoint_at_start
        self._kill(member)
        member.deaths = member.deaths + 1 if member.newest_checkpoint == before else 1
        member.not_before = self._port.now() + PAUSE_S * backoff(member.deaths + 1, LONGEST_PAUSE_S / PAUSE_S)
        self._journal.write("died", member=member.key, error=reason, in_a_row=member.deaths)
        self._settle(member)
        if member.deaths >= self._config.pbt.max_deaths_in_a_row and member.phase is MemberPhase.WAITING:
            self._give_up(member, reason)

    def stop(self) -> None:
        """Stop all members with a checkpoint each; a copy under way is applied or abandoned as a whole."""
        for member, _ in self.running():
            if member.phase is MemberPhase.STARTING:  # it does not listen yet, and nothing is lost
                self._kill(member)
            elif member.phase is not MemberPhase.STOPPING:
                self.pause(member)
        while any(self.running()):
            self.poll({})
            self.wait()

    def close(self) -> None:
        """Kill all processes."""
        for member, _ in self.running():
            self._kill(member)

    def ready(self, ref: Any) -> bool:
        """Whether the result of a remote call exists."""
        return bool(self._port.wait([ref], timeout=0)[0])

    def wait(self) -> None:
        """Wait until a member's run ends or `WAIT_S` has passed."""
        if ended := [turn.process.ended for _, turn in self.running()]:
            self._port.wait(ended, timeout=WAIT_S)
        else:
            self._port.sleep(WAIT_S)

    def _load(self, population: int, index: int) -> MemberState:
        """Make a member: a new one, or as the journal and its last checkpoint left it."""
        key, config = f"{population}-{index:02d}", self._config
        if key not in self._journal.members:
            seed = [config.seed, population, index, 0]
            first = initial_parameters(config.pbt, seed)
            self._journal.write("born", member=key, population=population, seed=seed, parameters=first)
        parameters = self._journal.members[key].parameters
        folder = RunFolder(self._folder.path / "members" / key)
        folder.path.mkdir(parents=True, exist_ok=True)
        init = MemberInit(config.seed_of(population, index), parameters)
        member = MemberState(key, population, index, folder, init, Status(0, 0, {}, 0, parameters, 0.0))
        self._settle(member)
        return member

    def _settle(self, member: MemberState) -> None:
        """Read the status of a waiting member from its last checkpoint, and make the journal agree with it."""
        journaled, generation, parameters = self._journal.members[member.key], 0, member.init.parameters
        if member.newest_checkpoint:
            try:
                checkpoint = load_member_checkpoint(self._config, self._suite, member.folder, member.init.seed)
            except UserError as e:
                self._give_up(member, str(e))
                return
            member.status = saved_status(self._config, self._suite.levels, checkpoint)
            generation, parameters = member.status.generation, member.status.parameters
        if journaled.open is not None:
            decided = journaled.open["generation"]
            if generation == decided:
                copied = journaled.open["donor"] is not None
                self._journal.write("applied", member=member.key, generation=decided, copied=copied, digest=None)
            else:
                self._journal.write("abandoned", member=member.key, generation=decided, reason="its run ended")
        if generation != journaled.generation:
            self._journal.write("restored", member=member.key, generation=generation, parameters=parameters)
        if member.status.env_frames >= self._config.train.env_frames:
            member.enter(MemberPhase.DONE, self._port.now())

    def _give_up(self, member: MemberState, reason: str) -> None:
        member.enter(MemberPhase.GIVEN_UP, self._port.now())
        self._journal.write("given_up", member=member.key, reason=reason)
        self.last_reason = f"{member.key}: {reason}"

    def _kill(self, member: MemberState) -> None:
        """Kill a member's process and all that it started; the member waits."""
        assert member.turn is not None
        with contextlib.suppress(ray.exceptions.RayError):
            member.turn.process.kill()
        self.free.append(member.turn.process.places)
        member.enter(MemberPhase.WAITING, self._port.now())

    def _finish(self, member: MemberState, turn: Turn) -> None:
        """Handle the end of a member's run: done, the end of its turn, or a death."""
        try:
            how = self._port.get(turn.process.ended)
        except ray.exceptions.RayError as e:
            self.restart(member, reason_of(e))
            return
        member.deaths = 0
        self._kill(member)
        self._settle(member)
        if how == "done":
            if member.phase is MemberPhase.WAITING:  # train.max_time_s ended it
                member.enter(MemberPhase.DONE, self._port.now())
            self._journal.write("done", member=member.key, env_frames=member.status.env_frames)

    def _poll_status(self, member: MemberState, turn: Turn, fitness: float | None) -> None:
        now = self._port.now()
        if turn.poll is not None and self.ready(turn.poll):
            with contextlib.suppress(ray.exceptions.RayError):  # `ended` reports a death
                member.status = self._port.get(turn.poll) or member.status
            turn.poll = None
            if member.phase is MemberPhase.STARTING and member.status.env_frames > turn.frames_at_start:
                turn.training_since = now
                member.enter(MemberPhase.TRAINING, now)
        if turn.poll is None and now - turn.polled_at >= POLL_EVERY_S:
            turn.poll, turn.polled_at = turn.process.status(fitness), now
