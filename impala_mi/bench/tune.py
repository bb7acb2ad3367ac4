"""Search for a good number of actors, environments and learner threads on this machine."""

from collections.abc import Iterator
from dataclasses import dataclass

from impala_mi.bench.end_to_end import TrainingCost, measure_training
from impala_mi.config import Config, build
from impala_mi.errors import UserError
from impala_mi.host.threads import cores

MAX_ENVS = 32
"""Most environments of an actor: a larger batch is hardly cheaper per frame."""


@dataclass(frozen=True)
class Candidate:
    """Sizes to try."""

    actors: int
    envs: int
    threads: int

    @property
    def overrides(self) -> list[str]:
        """The sizes as overrides of a configuration."""
        return [
            "actors.per_level=null", "actors.balance=actors",
            f"actors.count={self.actors}", f"actors.envs={self.envs}",
            f"learner.num_threads={self.threads}",
        ]  # fmt: skip

    @property
    def yaml(self) -> str:
        """The sizes as a part of a configuration file."""
        return f"actors:\n  count: {self.actors}\n  envs: {self.envs}\nlearner:\n  num_threads: {self.threads}\n"


def candidates(config: Config, levels: int, count: int) -> list[Candidate]:
    """A few different candidates for `count` cores: for slow games, and for a slow learner.

    Raises `UserError` if no candidate has an environment for every level.
    """
    batch = config.learner.batch_size
    divisors = [e for e in range(1, min(batch, MAX_ENVS) + 1) if batch % e == 0]
    wide, half = divisors[-1], max(e for e in divisors if e <= max(divisors[-1] // 2, 1))
    options = [
        Candidate(count, half, max(1, count // 4)),
        Candidate(count, wide, max(1, count // 4)),
        Candidate(max(1, count // 2), wide, min(8, count)),
        Candidate(max(1, count // 2), wide, max(1, count // 2)),
    ]
    fitting = [c for c in dict.fromkeys(options) if c.actors * c.envs >= levels]
    if not fitting:
        raise UserError(
            f"learner.batch_size={batch}: {count} actors of at most {wide} environments are fewer than {levels} "
            "levels; raise it, or name fewer env.levels"
        )
    return fitting


def tune(config: Config, levels: int, seconds: float) -> Iterator[tuple[Candidate, TrainingCost]]:
    """Train for some seconds with each candidate."""
    for candidate in candidates(config, levels, cores()):
        tried = build("bench", config.model_dump(), candidate.overrides)
        yield candidate, measure_training(tried, levels, warmup=3.0, seconds=seconds)
