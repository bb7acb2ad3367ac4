"""The trainer's loop on fake processes and a fake clock, with the recorder that runs have."""

import contextlib
import json
from types import SimpleNamespace

import pytest

from impala_mi.envs.suites import make_suite
from impala_mi.errors import GivenUp, TrainingError
from impala_mi.host import files
from impala_mi.host.signals import StopSignal
from impala_mi.learner.update import Counters
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder
from impala_mi.training import trainer as trainers
from impala_mi.training.placement import Places
from impala_mi.training.trainer import STOP_S, Trainer
from impala_mi.types import Fault
from tests.tiny import tiny_config
from tests.training.fakes import PLAY_S, Inference, Rank, World, state_of

DONOR = {"generation": 1, "parameters": {}, "episodes": 0}
BATCH = 70
"""Frames of a batch."""


class Run:
    """A run of `updates` updates; `between(run, trainer)` is called between two steps."""

    def __init__(self, path):
        self.path, self.world, self.records, self.between = path, World(), [], lambda trainer: None

    def make(self, updates, *overrides, resumed=None):
        self.config = tiny_config(
            "learner.batch_size=10", "actors.count=2", f"train.env_frames={updates * BATCH}", *overrides
        )
        self.suite, self.stop = make_suite(self.config.env), StopSignal()
        central = self.config.actors.inference == "central"
        self.trainer = Trainer(
            self.config, self.suite, RunFolder(self.path), resumed, self.records.append, self.stop,
            make_actor=self.world.make_actor, make_ranks=self.world.make_ranks,
            make_inference=self.world.make_inference, between=lambda trainer: self.between(trainer),
            places=Places("learner", "inference" if central else None), port=self.world.port,
        )  # fmt: skip
        return self

    def train(self, updates=20, *overrides, resumed=None):
        self.make(updates, *overrides, resumed=resumed)
        try:
            self.result = self.trainer.run()
        finally:
            self.trainer.close()
        return self

    def once(self, when, action):
        """Do something between two steps as soon as a condition holds."""
        seen = []

        def between(trainer):
            if not seen and when(trainer):
                seen.append(None)
                action(trainer)

        self.between = between

    def after(self, updates, action):
        self.once(lambda trainer: trainer.counters.updates >= updates, action)

    def events(self, kind=None):
        lines = [json.loads(line) for line in (self.path / "events.jsonl").read_text().splitlines()]
        return [line["event"] for line in lines] if kind is None else [e for e in lines if e["event"] == kind]

    def checkpoint(self):
        return checkpoints.load(self.path / "checkpoints")


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_a_run_trains_to_its_end_and_leaves_a_checkpoint_and_no_process(run):
    run.train(20, "train.log_every_s=3")
    assert run.result.status == "done"
    assert run.result.counters.env_frames == 20 * BATCH  # and no batch more
    assert run.checkpoint().meta["env_frames"] == 20 * BATCH
    assert run.result.checkpoint == run.checkpoint().path
    kinds = run.events()
    assert (kinds[0], kinds[1], kinds[-2:]) == ("started", "checkpoint", ["checkpoint", "done"])
    assert [r["env_frames"] for r in run.records] == sorted(r["env_frames"] for r in run.records)
    last = run.records[-1]
    assert (last["env_frames"], last["learner/restarts"], last["actors/alive"]) == (20 * BATCH, 0, 2)
    assert all(p.killed for p in (*run.world.actors, *run.world.ranks))
    assert all(actor.closed for actor in run.world.actors)


def test_no_actor_plays_ahead_of_more_than_two_batches_besides_the_one_that_is_learnt_from(run):
    def slow(ranks):
        ranks[0].learn_s = 20 * PLAY_S

    run.world.on_ranks = slow
    most = []
    run.between = lambda trainer: most.append(
        len(trainer._source) + 2 * trainer._learner.in_flight + sum(trainer._pool.in_flight().values())
    )
    run.train(8)
    rollouts, batch = run.config.rollouts_per_batch, 2
    assert rollouts == batch
    assert max(most) <= 4 * batch
    lags = [lag for rank in run.world.ranks for lag in rank.lags]
    assert len(lags) == 8


def test_actors_get_the_newest_weights_with_each_rollout(run):
    versions = []
    run.between = lambda trainer: versions.append((trainer.counters.version, run.world.actors[0].version))
    run.train(20)
    assert all(0 <= learnt - played <= 4 for learnt, played in versions)
    assert versions[-1][1] > 10


def test_stale_rollouts_are_discarded_and_counted(run):
    run.world.on_actor = lambda actor: setattr(actor, "play_s", 6 * PLAY_S if actor.index == 0 else 0.2)
    run.train(20, "learner.max_policy_lag=1", "learner.batch_size=5", "train.log_every_s=2")
    assert run.records[-1]["actors/discarded_unrolls"] > 0
    lags = [record["level/memory/lag_max"] for record in run.records if "level/memory/lag_max" in record]
    assert max(lags) <= 1
    assert run.result.counters.updates >= 20


def test_levels_get_equal_frames_though_one_is_slow(run):
    run.world.on_actor = lambda actor: setattr(actor, "play_s", 5.0 if actor.index == 1 else 0.5)
    run.train(60, "actors.count=null", "actors.per_level=1", "actors.balance=frames", "env.levels=[catch,memory]",
              "learner.batch_size=5")  # fmt: skip
    assert run.records[-1]["level/catch/frames_share"] == pytest.approx(0.5, abs=0.03)


def test_central_inference_gets_the_weights_and_is_ended(run):
    run.train(10, "actors.inference=central")
    assert isinstance(run.world.inference, Inference)
    assert run.world.inference.loaded == list(range(11))
    assert run.world.inference.killed


def test_a_run_goes_on_though_everything_dies(run):
    """Actors, ranks and connections, at random moments."""
    deaths = [0]

    def harm(trainer):
        updates = trainer.counters.updates
        if updates >= 10 * (deaths[0] + 1) and deaths[0] < 6:
            turn = deaths[0] = deaths[0] + 1
            if turn % 3 == 0:
                run.world.ranks[-1].die()
            elif turn % 3 == 1:
                run.world.living(turn % 2).die()
            else:
                run.world.living(0).become_unavailable()
                run.world.port.at(20, run.world.living(0).come_back)

    run.between = harm
    run.train(90, "actors.max_restarts=10", "learner.max_restarts=10")
    assert run.result.counters.env_frames == 90 * BATCH
    kinds = run.events()
    assert (kinds.count("learner_died"), kinds.count("actor_died")) == (2, 2)


def test_actors_play_on_while_the_learner_is_replaced(run):
    actors = []

    def die(trainer):
        actors.extend(run.world.actors)
        run.world.ranks[0].die()

    run.after(10, die)
    run.train(40)
    assert run.world.actors == actors
    [event] = run.events("learner_restarted")
    assert event["frames_lost"] >= 0
    frames = [r["env_frames"] for r in run.records]
    assert frames[-1] == 40 * BATCH
    versions = [a.version for a in run.world.actors]
    assert all(version >= run.result.counters.version - 4 for version in versions)
    assert run.records[-1]["learner/restarts"] == 1
    assert run.records[-1]["actors/restarts"] == 0


def test_too_few_actors_end_the_run_with_a_checkpoint(run):
    run.after(10, lambda trainer: [setattr(a, "fails", RuntimeError("it broke")) for a in run.world.actors])
    with pytest.raises(GivenUp, match=r"more than actors.max_restarts=0"):
        run.train(100, "actors.max_restarts=0")
    assert run.checkpoint().meta["updates"] >= 10


def test_a_learner_that_may_not_be_replaced_ends_the_run_with_a_checkpoint(run):
    run.once(lambda trainer: run.world.port.time > 1030, lambda trainer: run.world.ranks[0].die())
    with pytest.raises(TrainingError, match=r"learner.max_restarts=0"):
        run.train(1000, "learner.max_restarts=0")
    assert run.checkpoint().meta["updates"] > 0


def test_a_learner_that_cannot_learn_ends_the_run_and_the_last_checkpoint_stays(run):
    error = TrainingError("10 updates in a row were not finite")
    run.after(10, lambda trainer: setattr(run.world, "learner_error", error))
    with pytest.raises(TrainingError, match="10 updates in a row were not finite"):
        run.train(1000)
    assert len(run.events("checkpoint")) == 1  # the one before the first update
    assert run.checkpoint().meta["updates"] == 0


def test_all_sinks_are_told_that_a_run_failed(run, monkeypatch, tmp_path):
    def fail():
        raise TrainingError("no learner")

    events, closed = [], []
    recorder = SimpleNamespace(event=lambda kind, **details: events.append((kind, details)))
    trainer = SimpleNamespace(recorder=recorder, run=fail, close=lambda: closed.append(True))
    monkeypatch.setattr(trainers, "check", lambda config: None)
    monkeypatch.setattr(trainers, "running_ray", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(trainers, "Trainer", lambda *_: trainer)
    with pytest.raises(TrainingError, match="no learner; the last checkpoint is kept: impala-mi resume"):
        trainers.train(tiny_config(), RunFolder(tmp_path), None, lambda record: None)
    assert events == [("failed", {"error": "no learner"})]
    assert closed == [True]


def test_the_recorder_is_closed_if_the_trainer_cannot_be_made(run, monkeypatch):
    closed = []
    monkeypatch.setattr(trainers, "ActorPool", lambda *_: [][0])
    monkeypatch.setattr(trainers.Recorder, "close", lambda recorder: closed.append(recorder))
    with pytest.raises(IndexError):
        run.make(20)
    assert len(closed) == 1


def test_a_stop_drains_the_updates_in_flight_and_saves_them(run):
    run.after(10, lambda trainer: setattr(run.stop, "name", "SIGINT"))
    run.train(1000)
    assert run.result.status == "interrupted"
    assert run.result.counters.updates >= 10
    assert run.checkpoint().meta["updates"] == run.result.counters.updates == run.records[-1]["updates"]
    assert run.events("interrupted")[0]["signal"] == "SIGINT"
    assert run.events()[-2:] == ["checkpoint", "interrupted"]


def test_a_stop_waits_for_each_update_in_flight_but_not_for_a_learner_that_hangs(run):
    def stop(trainer):
        run.world.ranks[0].hangs = True
        run.stop.name, run.since = "SIGTERM", run.world.port.time

    run.once(
        lambda trainer: trainer._learner.rescue_copy["counters"]["updates"] and trainer._learner.in_flight, stop
    )
    run.train(1000)
    assert run.result.status == "interrupted"
    assert run.world.port.time - run.since < 2.5 * STOP_S
    assert 0 < run.checkpoint().meta["updates"] <= run.result.counters.updates  # the rescue copy


def test_a_slow_learner_is_waited_for_while_it_makes_progress(run):
    def stop(trainer):
        run.stop.name = "SIGTERM"

    run.world.on_ranks = lambda ranks: setattr(ranks[0], "learn_s", 0.9 * STOP_S)
    run.once(lambda trainer: trainer._learner.in_flight == 2, stop)
    run.train(1000)
    assert run.checkpoint().meta["updates"] == 2


def test_a_stop_while_the_learner_is_replaced_saves_the_rescue_copy(run):
    def die(trainer):
        run.world.port.at(0.6, lambda: setattr(run.stop, "name", "SIGINT"))
        run.world.ranks[0].die()

    run.once(lambda trainer: run.world.port.time > 1030, die)
    with pytest.raises(TrainingError, match="SIGINT while the learner was being replaced"):
        run.train(1000)
    assert run.checkpoint().meta["env_frames"] > 0


def test_a_run_ends_after_its_time(run):
    run.train(10_000, "train.max_time_s=60")
    assert run.result.status == "done"
    assert 55 < run.records[-1]["time_s"] < 70


def test_checkpoints_are_saved_from_time_to_time(run):
    run.train(60, "train.checkpoint_every_s=10", "train.keep_checkpoints=100")
    assert len(run.events("checkpoint")) >= 5


def test_faults_of_a_rollout_that_takes_long_are_recorded_before_it_is_delivered(run):
    def fault():
        run.world.actors[0].faults = [(2, Fault(7, "hang", "no answer"))]

    run.world.on_actor = lambda actor: actor.index or setattr(actor, "play_s", 60.0)
    run.world.port.at(20, fault)
    run.train(30, "learner.batch_size=5", "train.log_every_s=2")
    [event] = run.events("fault")
    assert (event["actor"], event["kind"], event["level"]) == (0, "hang", run.suite.levels[2].name)


def test_a_resumed_run_goes_on_with_counts_and_other_seeds(run):
    run.train(10)
    first = run.checkpoint()
    again = Run(run.path)
    again.train(20, resumed=first)
    assert [actor.seed_epochs[0] for actor in again.world.actors] == [(10, 1, 0)] * 2
    assert again.result.counters.updates == 20
    assert again.records[-1]["time_s"] > 5
    assert again.checkpoint().run["starts"] == 1


def test_the_deterministic_mode_takes_actors_in_order_with_the_newest_weights(run):
    order = []
    run.world.on_actor = lambda actor: setattr(actor, "play_s", 3.0 if actor.index == 0 else 1.0)
    run.make(8, "train.deterministic=true", "train.checkpoint_every_updates=3")
    submit = run.trainer._learner.submit

    def spy(batch):
        order.append([(rollout.info.actor, rollout.info.version) for rollout in batch])
        submit(batch)

    run.trainer._learner.submit = spy
    run.trainer.run()
    run.trainer.close()
    assert order == [[(0, version), (1, version)] for version in range(8)]
    assert len(run.events("checkpoint")) == 4  # at the start, after 3, after 6, at the end
    assert run.world.actors[0].seed_epochs == [(0, 0, 0), (3, 0, 0), (6, 0, 0)]


# -- members of a population -----------------------------------------------------------------


def donor_state():
    """State of a learner that knows something else and is further in its schedule."""
    return state_of(500.0, Counters(updates=20, version=3, agent_steps=1400, env_frames=1400))


def test_an_other_member_is_loaded_between_two_updates(run):
    given, seen = donor_state(), {}

    def load(trainer):
        seen["before"], seen["actors"] = trainer.counters, list(run.world.actors)
        seen["discarded"] = trainer.recorder.discarded
        learner = run.config.learner.model_copy(update={"learning_rate": 1e-5})
        seen["config"] = run.config.model_copy(update={"learner": learner})
        assert trainer.recorder.scores.mean_returns()
        assert trainer.load_member(seen["config"], DONOR, given)
        seen["after"], seen["held"] = trainer.counters, trainer.state()
        assert trainer.recorder.scores.mean_returns() == {}
        assert len(trainer._source) == 0

    run.once(lambda trainer: trainer.counters.updates >= 10 and trainer._pool.in_flight(), load)
    run.train(30)
    before, after = seen["before"], seen["after"]
    assert checkpoints.digest(seen["held"]) == checkpoints.digest(given)
    assert after.updates >= before.updates  # its own counts go on
    assert after.agent_steps + after.schedule_ahead == 1400  # and the schedule is the donor's
    assert after.version > before.version
    assert run.world.actors == seen["actors"]
    # Rollouts of older weights, in flight then, are neither scored nor learnt from.
    assert run.trainer.recorder.discarded > seen["discarded"]
    assert max(max(lags) for lags in run.world.ranks[0].lags[-(30 - after.updates) :]) < 5
    assert run.result.counters.env_frames == 30 * BATCH
    last = run.checkpoint()
    assert last.run["member"] == DONOR
    assert RunFolder(run.path).config.learner == seen["config"].learner


def test_hyperparameters_alone_change_no_weight_and_discard_nothing(run):
    def load(trainer):
        weight = float(trainer.state()["agent"]["w"])
        learner = run.config.learner.model_copy(update={"entropy_cost": 0.5})
        assert trainer.load_member(run.config.model_copy(update={"learner": learner}), DONOR, None)
        assert float(trainer.state()["agent"]["w"]) >= weight

    run.after(10, load)
    run.train(20)
    assert run.trainer.recorder.discarded == 0
    assert run.world.ranks[0].config.learner.entropy_cost == 0.5


def watch_saves(trainer):
    saved, save = [], trainer.recorder.save

    def spy(state, *preview):
        saved.append((checkpoints.digest(state), dict(trainer.recorder.member)))
        return save(state, *preview)

    trainer.recorder.save = trainer._learner._save = spy
    return saved


def test_a_learner_that_dies_before_a_copy_leaves_a_member_as_it_was_and_the_copy_is_made(run):
    given, saved = donor_state(), []

    def load(trainer):
        saves = watch_saves(trainer)
        run.world.ranks[0].die()
        assert trainer.load_member(run.config, DONOR, given)
        saved.extend(saves)

    run.after(10, load)
    run.train(30)
    assert saved == [(checkpoints.digest(given), DONOR)]
    assert len(run.events("learner_died")) == 1
    assert run.checkpoint().run["member"] == DONOR


def test_a_learner_that_dies_after_the_commit_point_becomes_the_member(run):
    given = donor_state()

    def load(trainer):
        load_member = trainer._learner.load_member

        def dies(config, state):
            run.world.ranks[0].die()
            load_member(config, state)

        trainer._learner.load_member = dies
        assert trainer.load_member(run.config, DONOR, given)
        assert checkpoints.digest(trainer.state()) == checkpoints.digest(given)

    run.after(10, load)
    run.train(30)
    assert len(run.events("learner_restarted")) == 1
    assert run.checkpoint().run["member"] == DONOR


def test_a_member_whose_learner_may_not_be_replaced_is_saved_as_what_it_was(run):
    given = donor_state()

    def load(trainer):
        trainer.state()
        run.world.ranks[0].die()
        trainer.load_member(run.config, DONOR, given)

    run.after(10, load)
    with pytest.raises(TrainingError, match="max_restarts"):
        run.train(30, "learner.max_restarts=0")
    last = run.checkpoint()
    assert last.run["member"] == {}
    assert checkpoints.digest(last.learner) != checkpoints.digest(given)


def test_a_member_is_not_loaded_while_the_run_stops_and_the_learner_hangs(run):
    seen = []

    def load(trainer):
        run.world.ranks[0].hangs = True
        run.stop.name = "SIGINT"
        seen.append(trainer.load_member(run.config, DONOR, donor_state()))
        assert trainer.recorder.member == {}

    run.once(lambda trainer: trainer._learner.in_flight and trainer._learner.rescue_copy is not None, load)
    run.train(1000)
    assert seen == [False]
    assert run.checkpoint().run["member"] == {}


def test_a_learner_that_holds_other_weights_than_it_was_given_ends_the_run(run, monkeypatch):
    def forgets(self, state, learner):
        return self._load(0.1, lambda: None)

    monkeypatch.setattr(Rank, "load_member", forgets)
    run.after(10, lambda trainer: trainer.load_member(run.config, DONOR, donor_state()))
    with pytest.raises(TrainingError, match="does not hold the weights and hyperparameters"):
        run.train(30)


# -- disks -------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch):
    """Switch of a disk that refuses everything while it is full."""
    full = SimpleNamespace(full=False, refused=0)

    def refusing(function):
        def call(*args, **kwargs):
            if full.full:
                full.refused += 1
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(checkpoints, "save", refusing(checkpoints.save))
    monkeypatch.setattr(files, "append", refusing(files.append))
    return full


def fill_between(run, disk, first, last):
    """Fill the disk while the number of updates is between two."""

    def between(trainer):
        disk.full = first <= trainer.counters.updates < last

    run.between = between


@pytest.mark.filterwarnings("ignore:.*could not be written")
def test_a_run_goes_on_while_the_disk_is_full_and_saves_once_there_is_room(run, disk):
    fill_between(run, disk, 20, 120)
    run.train(200, "train.checkpoint_every_s=10", "train.keep_checkpoints=100", "train.log_every_s=5")
    assert disk.refused > 4
    assert run.result.status == "done"
    frames = [record["env_frames"] for record in run.records]
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["env_frames"] for line in lines] == frames  # nothing is missing
    kinds = run.events()
    assert kinds.count("checkpoint_failed") >= 1
    assert "checkpoint" in kinds[kinds.index("checkpoint_failed") :]
    saved = [int(path.name) for path in checkpoints.steps(run.path / "checkpoints")]
    assert any(0 < step <= 20 * BATCH for step in saved)  # those before the disk was full
    assert run.checkpoint().meta["updates"] == 200


def test_a_full_disk_is_told_the_user_with_what_to_do(run, disk):
    fill_between(run, disk, 20, 120)
    with pytest.warns(UserWarning, match=r"the checkpoint at [\d,]+ frames could not .*No space.*make room"):
        run.train(200, "train.checkpoint_every_s=10")


@pytest.mark.filterwarnings("ignore:.*could not be written")
def test_a_run_that_is_done_waits_for_room_for_its_last_checkpoint(run, disk):
    run.make(30)
    run.after(29, lambda trainer: setattr(disk, "full", True))
    began = run.world.port.now()
    run.world.port.at(100, lambda: setattr(disk, "full", False))
    result = run.trainer.run()
    run.trainer.close()
    assert run.world.port.now() - began >= 100
    assert result.status == "done"
    assert run.checkpoint().meta["updates"] == 30


@pytest.mark.filterwarnings("ignore:.*could not be written")
@pytest.mark.parametrize("stopped", [False, True])
def test_a_last_checkpoint_that_cannot_be_saved_is_an_error_after_a_while(run, disk, stopped):
    run.make(30)
    filled_at = []

    def fill(trainer):
        disk.full = True
        filled_at.append(run.world.port.now())
        if stopped:
            run.stop.name = "SIGTERM"

    run.after(20, fill)
    with pytest.raises(OSError, match="No space left"):
        run.trainer.run()
    waited = run.world.port.now() - filled_at[0]
    run.trainer.close()
    assert (waited < 60) if stopped else (trainers.ROOM_S < waited < 2 * trainers.ROOM_S)


@pytest.mark.filterwarnings("ignore:.*could not be written")
def test_a_first_checkpoint_that_cannot_be_saved_ends_the_run_at_once(run, disk):
    run.make(30)
    disk.full = True
    with pytest.raises(OSError, match="No space left"):
        run.trainer.run()
    run.trainer.close()
    assert run.trainer.counters.updates == 0
