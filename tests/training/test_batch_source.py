"""What waits between actors and learner, and which actors may play ahead."""

from collections import Counter

from impala_mi.training.actor_slot import ActorSlot, RolloutRef
from impala_mi.training.balance import CATCH_UP, LevelBalance
from impala_mi.training.batch_source import RolloutQueue
from impala_mi.types import RolloutInfo


def rollout(version: int, actor: int = 0) -> RolloutRef:
    return RolloutRef(RolloutInfo(actor, version, []), "data")


def queue(max_policy_lag=None) -> tuple[RolloutQueue, list[int]]:
    discarded: list[int] = []
    return RolloutQueue(2, max_policy_lag, discarded.append), discarded


def test_rollouts_are_learnt_from_once_in_order_of_arrival():
    source, _ = queue()
    assert source.batch(0) is None
    rollouts = [rollout(0, actor) for actor in range(5)]
    assert all(source.add(r) for r in rollouts)
    assert source.actors() == [0, 1, 2, 3, 4]
    assert source.batch(9) == rollouts[:2]
    assert source.batch(9) == rollouts[2:4]
    assert source.batch(9) is None
    assert len(source) == 1


def test_rollouts_that_are_too_old_at_their_turn_are_discarded():
    source, discarded = queue(max_policy_lag=2)
    for version in (1, 5, 3, 2):
        source.add(rollout(version))
    batch = source.batch(5)
    assert [r.info.version for r in batch] == [5, 3]
    assert sum(discarded) == 2
    source.add(rollout(4))
    source.add(rollout(0))
    assert source.batch(5) is None
    assert (len(source), sum(discarded)) == (1, 3)


def test_after_a_restart_rollouts_of_older_weights_are_refused():
    source, discarded = queue()
    source.add(rollout(3))
    source.restart(version=4)
    assert (len(source), sum(discarded)) == (0, 1)
    assert not source.add(rollout(3))
    assert source.add(rollout(4))
    assert (len(source), sum(discarded)) == (1, 2)


def play(balance: LevelBalance, rounds: int, speeds: list[int], alive: set[int]) -> Counter[int]:
    """Rollouts of each level's actor, of which level k could play `speeds[k]` in a round."""
    played = Counter[int]()
    for _ in range(rounds):
        for level, speed in enumerate(speeds):
            for _ in range(speed if level in alive else 0):
                for actor in balance.allowed([ActorSlot(level)], alive, [], Counter()):
                    played[actor.index] += 1
                    balance.count(actor.index)
    return played


def test_levels_that_are_ahead_wait_for_the_slowest():
    balance = LevelBalance([[0], [1], [2]], per_level=1)
    played = play(balance, 50, [10, 1, 3], {0, 1, 2})
    assert max(played.values()) - min(played.values()) <= 1
    assert min(played.values()) >= 50


def test_rollouts_in_flight_and_in_the_queue_count_too():
    balance = LevelBalance([[0], [0], [1], [1]], per_level=2)
    idle = [ActorSlot(i) for i in range(4)]
    assert [a.index for a in balance.allowed(idle, {0, 1}, [], Counter())] == [0, 1, 2, 3]
    for actor in (0, 2):
        balance.count(actor)
    assert [a.index for a in balance.allowed(idle, {0, 1}, [0], Counter({0: 1}))] == [2, 3]
    assert [a.index for a in balance.allowed(idle, {0, 1}, [0, 1, 0], Counter({1: 1}))] == [2, 3]
    assert balance.allowed([], {0, 1}, [], Counter()) == []


def test_nobody_waits_for_a_level_that_compiles_its_first_map():
    balance = LevelBalance([[0], [1], [2]], per_level=1)
    played = play(balance, 200, [1, 3, 0], {0, 1, 2})
    assert played[0] == 200
    assert played[1] in range(199, 202), "those that are ready are balanced"
    played = play(balance, 500, [1, 3, 1], {0, 1, 2})
    assert played[2] - played[0] in range(CATCH_UP - 2, CATCH_UP + 2)


def test_a_level_that_comes_back_catches_up_for_a_while_only():
    balance = LevelBalance([[0], [1]], per_level=1)
    play(balance, 10, [1, 1], {0, 1})
    played = play(balance, 500, [1, 1], {0})  # the node of the other is gone, and nobody waits for it
    assert played[0] == 500
    played = play(balance, 200, [1, 1], {0, 1})
    assert played[1] - played[0] in range(CATCH_UP - 2, CATCH_UP + 2)
