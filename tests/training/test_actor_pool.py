"""The actor pool on fake processes: restarts, back-off, quorum, unreachable actors, lost nodes and objects."""

import itertools

import pytest
from ray.exceptions import RayActorError, RayTaskError

from impala_mi.envs.suites import make_suite
from impala_mi.errors import GivenUp, TrainingError
from impala_mi.training.actor_pool import UNREACHABLE_S, ActorPool
from impala_mi.training.actor_slot import Phase
from impala_mi.types import Fault
from tests.tiny import tiny_config
from tests.training.fakes import PLAY_S, START_S, Process, World, lost_object


class Run:
    """A pool whose actors always play, as the trainer's loop has them."""

    def __init__(self, world: World, *overrides: str) -> None:
        config = tiny_config("actors.count=3", *overrides)
        self.world, self.stopping = world, False
        self.events, self.rollouts = [], []
        placement = "placement" if config.actors.inference == "central" else None
        self.pool = ActorPool(
            config, make_suite(config.env), (0, 0), lambda kind, **details: self.events.append((kind, details)),
            lambda: self.stopping, placement, world.make_actor, world.make_inference, world.port,
        )  # fmt: skip
        self.publish(0)

    def publish(self, version):
        self.weights, self.version = self.world.port.put({}), version
        self.pool.publish(self.weights, version)

    def go(self, seconds, until=lambda: False):
        end = self.world.port.time + seconds
        while self.world.port.time < end and not until():
            self.play()
            for ref in self.pool.wait([], 0.5):
                if (rollout := self.pool.consume(ref)) is not None:
                    self.rollouts.append(rollout)
            self.pool.supervise()
        self.play()
        return self

    def play(self):
        for actor in self.pool.idle():
            self.pool.play(actor, self.weights, self.version)

    def kinds(self, kind):
        return [details for event, details in self.events if event == kind]

    @property
    def phases(self):
        return [actor.phase for actor in self.pool.actors]


def test_actors_play_as_soon_as_they_have_started_and_each_has_one_rollout_in_flight(world):
    run = Run(world)
    assert run.phases == [Phase.STARTING] * 3
    run.go(START_S + 10.5 * PLAY_S)
    assert run.phases == [Phase.PLAYING] * 3
    assert sorted(r.info.actor for r in run.rollouts) == sorted([0, 1, 2] * 10)
    assert {r.data.value for r in run.rollouts} == {"transitions"}
    assert run.pool.in_flight() == {0: 3}  # each plays every level; it counts as its first one
    assert run.pool.metrics() == {"actors/alive": 3, "actors/given_up": 0, "actors/restarts": 0}
    assert run.events == []


def test_a_dead_actor_is_replaced_at_once_with_seeds_of_its_own_and_the_others_play_on(world):
    run = Run(world).go(5)
    world.actors[1].die()
    run.go(0.1)
    assert run.phases[1] is Phase.STARTING
    assert world.actors[-1].seed_epochs == [(0, 0, 1)]
    run.go(5)
    assert run.kinds("actor_died") == [{"actor": 1, "error": "The actor died unexpectedly.", "node_lost": False}]
    assert run.kinds("actor_joined") == [{"actor": 1}]
    assert [a.index for a in world.actors] == [0, 1, 2, 1]
    assert run.pool.metrics() == {"actors/alive": 3, "actors/given_up": 0, "actors/restarts": 1}


def test_the_back_off_doubles_with_deaths_in_a_row(world):
    starts = []

    def poison(actor):
        if actor.index == 0:
            starts.append(world.port.time)
            actor.fails = RuntimeError("the level broke")

    world.on_actor = poison
    Run(world, "actors.max_deaths_in_a_row=9").go(60)
    pauses = [later - earlier - START_S - PLAY_S for earlier, later in itertools.pairwise(starts)]
    assert pauses[:5] == [pytest.approx(seconds, abs=1.1) for seconds in (0, 1, 2, 4, 8)]


def test_a_rollout_between_two_deaths_ends_the_row(world):
    run = Run(world, "actors.max_deaths_in_a_row=2").go(5)
    for _ in range(4):
        world.living(0).die()
        run.go(5)
    assert run.phases[0] is Phase.PLAYING
    assert run.pool.metrics()["actors/restarts"] == 4


def test_an_actor_that_always_dies_is_given_up_and_the_others_go_on(world):
    world.on_actor = lambda actor: setattr(actor, "fails", RuntimeError("it broke") if actor.index == 2 else None)
    run = Run(world, "actors.per_level=1", "actors.count=null", "env.levels=[catch,memory,always_right]",
              "actors.max_deaths_in_a_row=3").go(40)  # fmt: skip
    [event] = run.kinds("actor_given_up")
    assert (event["actor"], event["deaths"], event["error"]) == (2, 3, "it broke")
    assert len(event["levels"]) == 1
    assert run.phases == [Phase.PLAYING, Phase.PLAYING, Phase.GIVEN_UP]
    assert run.pool.metrics() == {"actors/alive": 2, "actors/given_up": 1, "actors/restarts": 3}
    assert len(run.pool.levels_alive()) == 2


def test_too_few_actors_that_are_not_given_up_end_the_run(world):
    world.on_actor = lambda actor: setattr(actor, "fails", RuntimeError("it broke") if actor.index else None)
    run = Run(world, "actors.max_deaths_in_a_row=2")
    with pytest.raises(GivenUp, match="only 1 of 3 actors are alive, fewer than 2: 2 were given up"):
        run.go(100)


@pytest.mark.parametrize(("minimum", "ends"), [("actors.min=2", False), ("actors.min=3", True)])
def test_too_few_living_actors_end_the_run_after_a_while(world, minimum, ends):
    world.on_actor = lambda actor: setattr(actor, "hangs", actor.index == 0)  # never gets resources
    run = Run(world, minimum, "actors.quorum_s=30")
    if not ends:
        run.go(100)
        return
    run.go(25)
    run.pool.reset_quorum_clock()
    run.go(25)
    with pytest.raises(GivenUp, match=r"only 2 of 3 actors are alive, fewer than 3: for actors.quorum_s=30 s"):
        run.go(10)


def test_the_deterministic_mode_needs_every_actor(world):
    world.on_actor = lambda actor: setattr(actor, "fails", None if actor.index else RuntimeError("it broke"))
    run = Run(
        world,
        "train.deterministic=true",
        "train.checkpoint_every_updates=5",
        "learner.batch_size=15",
        "actors.max_deaths_in_a_row=1",
    )
    with pytest.raises(GivenUp, match="only 2 of 3 actors are alive, fewer than 3: 1 were given up"):
        run.go(20)


def test_too_many_deaths_in_an_hour_end_the_run(world):
    run = Run(world, "actors.max_restarts=2").go(5)
    for actor in list(world.actors[:2]):
        actor.die()
        run.go(2)
    world.actors[2].die()
    with pytest.raises(GivenUp, match=r"3 deaths in an hour, more than actors.max_restarts=2; the last: actor 2"):
        run.go(2)


def test_an_actor_that_hangs_is_replaced_and_what_it_answers_later_is_ignored(world):
    run = Run(world, "actors.timeout_s=20").go(5)
    hung = world.actors[0]
    hung.hangs = True
    run.go(19)
    assert run.events == []
    run.go(4)
    assert run.kinds("actor_died")[0]["error"] == "delivered nothing for actors.timeout_s=20"
    run.go(5)
    assert hung.killed
    assert run.phases == [Phase.PLAYING] * 3


def test_a_result_that_has_arrived_and_was_not_consumed_is_no_timeout(world):
    run = Run(world, "actors.timeout_s=20").go(5)
    world.port.sleep(100)  # the driver was busy
    run.pool.supervise()
    run.go(5)
    assert run.events == []


def test_an_unreachable_actor_may_come_back_with_its_episodes(world):
    run = Run(world).go(5)
    actor = world.actors[1]
    actor.become_unavailable()
    run.go(UNREACHABLE_S - 20)
    assert run.phases[1] is Phase.UNREACHABLE
    assert run.pool.metrics()["actors/alive"] == 2
    actor.come_back()
    run.go(10)
    assert run.phases[1] is Phase.PLAYING
    assert world.living(1) is actor
    assert not run.kinds("actor_died")
    assert run.pool.metrics()["actors/restarts"] == 0


def test_an_actor_that_stays_unreachable_is_replaced(world):
    run = Run(world).go(5)
    world.actors[1].become_unavailable()
    run.go(UNREACHABLE_S + 10)
    assert run.kinds("actor_died")[0]["error"] == f"could not be reached for {UNREACHABLE_S:g} s"
    assert run.phases[1] is Phase.PLAYING
    assert world.living(1) is not world.actors[1]


def test_an_actor_that_goes_with_its_node_is_not_held_against_the_run(world):
    run = Run(world, "actors.max_restarts=0").go(5)
    world.actors[0].node = "other"
    world.actors[0].die()  # with the node that it named when it started, which is alive
    with pytest.raises(GivenUp):
        run.go(1)
    world.port.nodes = set()
    other = Run(World(), "actors.max_restarts=0").go(5)
    other.world.port.nodes = set()
    other.world.actors[0].die()
    other.go(1.5)
    assert other.kinds("actor_died")[0]["node_lost"]
    assert other.phases[0] is Phase.BACKING_OFF  # for two seconds
    other.go(5)
    assert other.phases[0] is Phase.PLAYING
    assert other.pool.metrics()["actors/restarts"] == 0


def test_a_death_before_the_first_answer_is_taken_for_a_lost_node_a_few_times(world):
    world.on_actor = lambda actor: actor.index or world.port.at(0.5, actor.die)
    run = Run(world, "actors.max_deaths_in_a_row=3").go(60)
    lost = [event["node_lost"] for event in run.kinds("actor_died")]
    assert lost[:3] == [True, True, False]
    assert run.pool.metrics()["actors/given_up"] == 1


@pytest.mark.parametrize("error", [RayActorError(preempted=True), RayActorError(actor_init_failed=True)])
def test_ray_says_why_an_actor_is_gone(world, error):
    run = Run(world).go(5)
    world.actors[0].die(error)
    run.go(1)
    assert run.kinds("actor_died")[0]["node_lost"] is error.preempted


def test_lost_weights_cost_a_rollout_and_newer_ones_are_played_with(world):
    run = Run(world).go(5)
    run.publish(1)
    run.weights.end()
    run.weights.error = lost_object()
    run.go(3)
    assert run.kinds("weights_lost")
    assert run.phases == [Phase.PLAYING] * 3
    run.publish(2)
    run.go(3)
    assert run.rollouts[-1].info.version == 2
    assert not run.kinds("actor_died")


def test_an_inference_worker_that_dies_is_replaced_once_for_all_its_actors(world):
    run = Run(world, "actors.inference=central", "inference.workers=2").go(5)
    old = list(world.inference.workers)
    assert world.inference.loaded == [0]
    old[0].lost = True  # acts for actors 0 and 2
    run.go(5)
    assert run.kinds("inference_died") == [{"worker": 0, "error": "the worker died"}]
    assert not run.kinds("actor_died")
    assert run.pool.metrics()["actors/restarts"] == 1
    assert [actor.workers[-1] for actor in world.actors] == [world.inference.workers[i] for i in (0, 1, 0)]
    assert world.inference.workers[1] is old[1]


def test_inference_workers_that_die_too_often_end_the_run(world):
    run = Run(world, "actors.inference=central", "actors.max_restarts=0").go(5)
    world.inference.workers[0].lost = True
    with pytest.raises(GivenUp, match="the last: inference worker 0: the worker died"):
        run.go(5)


def test_an_error_that_no_restart_mends_ends_the_run(world):
    run = Run(world).go(5)
    world.actors[1].fails = TrainingError("a level did not start 10 times: hopeless")
    with pytest.raises(TrainingError, match="actor 1: a level did not start 10 times: hopeless"):
        run.go(3)
    assert not run.events


def test_deaths_do_not_matter_while_the_run_stops(world):
    run = Run(world, "actors.max_restarts=0").go(5)
    run.stopping = True
    for actor in world.actors:
        actor.die()
    run.go(5)
    assert run.events == []
    assert len(world.actors) == 3


def test_faults_are_asked_for_while_a_rollout_takes_long(world):
    run = Run(world)
    for actor in world.actors:
        actor.play_s = 50
    run.go(5)
    fault = Fault(7, "hang", "no answer")
    world.actors[1].faults = [(3, fault)]
    assert list(run.pool.poll_faults(since_s=10)) == []
    run.go(10)
    assert list(run.pool.poll_faults(since_s=10)) == []  # asks them
    world.actors[2].die()
    assert sorted(run.pool.poll_faults(since_s=10, timeout=1)) == [(0, []), (1, [(3, fault)])]
    world.actors[0].hangs = True
    run.pool.poll_faults(since_s=10)
    assert dict(run.pool.poll_faults(since_s=10, timeout=1)).get(1) == []


def test_new_episodes_everywhere_begin_with_other_seeds(world):
    run = Run(world).go(5)
    run.pool.restart_episodes((10, 0))
    assert [actor.seed_epochs[-1] for actor in world.actors] == [(10, 0, 0)] * 3
    world.actors[0].die()
    run.go(5)
    assert world.actors[-1].seed_epochs == [(10, 0, 1)]


@pytest.mark.parametrize("fail", ["die", "become_unavailable"])
def test_an_idle_actor_that_cannot_start_new_episodes_is_replaced(world, fail):
    run = Run(world)
    while run.phases != [Phase.IDLE] * 3:
        [run.pool.consume(ref) for ref in run.pool.wait([], 0.5)]
    getattr(world.actors[1], fail)()
    run.pool.restart_episodes((10, 0))
    assert run.phases == [Phase.IDLE, Phase.STARTING, Phase.IDLE]
    assert [details["actor"] for details in run.kinds("actor_died")] == [1]
    assert [world.living(i).seed_epochs[-1] for i in range(3)] == [(10, 0, 0), (10, 0, 1), (10, 0, 0)]
    run.go(5)
    assert run.phases == [Phase.PLAYING] * 3


def test_games_are_closed_before_processes_are_killed(world):
    run = Run(world).go(5)
    world.actors[0].fails = RuntimeError("it broke")
    run.go(1.5)
    first = world.actors[0]
    run.go(2)
    assert first.closed
    assert first.killed
    hung = world.actors[1]
    hung.hangs = True
    run.pool.close()
    assert [actor.closed for actor in world.actors[1:]] == [False, True, True]
    assert all(actor.killed for actor in world.actors)


def test_a_dead_actor_that_does_not_close_its_games_is_killed_after_a_while(world):
    run = Run(world, "actors.timeout_s=10").go(5)
    world.actors[0].hangs = True
    run.go(12)
    assert run.kinds("actor_died")
    assert not world.actors[0].killed
    run.go(6)
    assert world.actors[0].killed


def test_a_kill_that_fails_is_no_error(world):
    run = Run(world).go(3)
    world.actors[0].kill = lambda: (_ for _ in ()).throw(RayActorError())
    run.pool.close()
    assert world.actors[1].killed


def test_fake_processes_are_as_unkind_as_ray(world):
    """Results arrive out of order, and a process that dies takes its calls with it."""
    process = Process(world.port)
    slow, quick = process.call(2, lambda: "slow"), process.call(1, lambda: "quick")
    assert world.port.wait([slow, quick], timeout=None) == ([quick], [slow])
    process.die()
    for ref in (slow, process.call(1, lambda: None)):
        with pytest.raises(RayActorError):
            world.port.get(ref)
    broken = Process(world.port)
    with pytest.raises(RayTaskError):
        world.port.get(broken.call(1, lambda: 1 / 0))
