"""Balance of frames between levels, for `actors.balance=frames`: levels that are ahead wait for the others."""

from collections import Counter
from collections.abc import Sequence

from impala_mi.training.actor_slot import ActorSlot

CATCH_UP = 50
"""Most rollouts per actor by which a level may catch up after it was not played for a while."""


class LevelBalance:
    """Chooses the actors that may play, by the rollouts of their first level.

    Args:
        assignment: levels of each actor's environments.
        per_level: number of actors of each level.
    """

    def __init__(self, assignment: Sequence[Sequence[int]], per_level: int) -> None:
        self._level_of = [levels[0] for levels in assignment]
        self._per_level = per_level
        self._learnt = Counter[int]()
        self._alive: set[int] = set()

    def count(self, actor: int) -> None:
        """Count a rollout that was submitted to the learner."""
        self._learnt[self._level_of[actor]] += 1

    def allowed(
        self, idle: Sequence[ActorSlot], alive: set[int], queued: Sequence[int], in_flight: Counter[int]
    ) -> list[ActorSlot]:
        """Idle actors whose level is not ahead.

        Args:
            idle: actors that could play.
            alive: levels that at least one living actor plays.
            queued: actors whose rollouts wait for the learner.
            in_flight: rollouts that are being played, by level.
        """
        if not idle:
            return []
        # A level that has delivered nothing yet may compile maps for minutes: nobody waits for it.
        alive = {k for k in alive if self._learnt[k] or k in {self._level_of[actor] for actor in queued}}
        # A level that returns may lag by CATCH_UP at most: otherwise all others would wait until it caught up.
        if returned := alive - self._alive:
            least = min((self._learnt[k] for k in self._alive & alive), default=0) - CATCH_UP * self._per_level
            self._learnt.update({k: max(0, least - self._learnt[k]) for k in returned})
        self._alive = alive
        rollouts = self._learnt + Counter(self._level_of[actor] for actor in queued) + in_flight
        least, allowed = min((rollouts[k] for k in alive), default=0), []
        for actor in idle:
            level = self._level_of[actor.index]
            if rollouts[level] < least + self._per_level:
                rollouts[level] += 1
                allowed.append(actor)
        return allowed
