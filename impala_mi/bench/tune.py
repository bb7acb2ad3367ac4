"""A good number of actors, environments and threads for this machine, found by trying."""

from collections.abc import Iterator
from dataclasses import dataclass

from impala_mi.bench.training import Trained, train
from impala_mi.config import Config, build
from impala_mi.errors import UserError
from impala_mi.host.threads import cores

MOST_ENVS = 32
"""Of an actor: a larger batch is hardly cheaper a frame."""


@dataclass(frozen=True)
class Candidate:
    """What is tried."""

    actors: int
    envs: int
    threads: int

    @property
    def overrides(self) -> list[str]:
        """As they are given to `impala-mi train`."""
        return [
            "actors.per_level=null", "actors.balance=actors",
            f"actors.count={self.actors}", f"actors.envs={self.envs}",
            f"learner.num_threads={self.threads}",
        ]  # fmt: skip

    @property
    def yaml(self) -> str:
        """As it stands in a configuration."""
        return f"actors:\n  count: {self.actors}\n  envs: {self.envs}\nlearner:\n  num_threads: {self.threads}\n"


def candidates(config: Config, levels: int, count: int) -> list[Candidate]:
    """Few that differ much, for so many cores: where the games take longest, and where the learner does."""
    batch = config.learner.batch_size
    divisors = [e for e in range(1, min(batch, MOST_ENVS) + 1) if batch % e == 0]
    wide, half = divisors[-1], max(e for e in divisors if e <= max(divisors[-1] // 2, 1))
    found = [
        Candidate(count, half, max(1, count // 4)),
        Candidate(count, wide, max(1, count // 4)),
        Candidate(max(1, count // 2), wide, min(8, count)),
        Candidate(max(1, count // 2), wide, max(1, count // 2)),
    ]
    unique = list(dict.fromkeys(found))
    fitting = [c for c in unique if c.actors * c.envs >= levels]
    if not fitting:
        raise UserError(
            f"learner.batch_size={batch}: {count} actors of at most {wide} environments are fewer than {levels} "
            "levels; raise it, or name fewer env.levels"
        )
    return fitting


def tune(config: Config, levels: int, seconds: float) -> Iterator[tuple[Candidate, Trained]]:
    """Train for some seconds with each candidate."""
    for candidate in candidates(config, levels, cores()):
        tried = build("bench", config.model_dump(), candidate.overrides)
        yield candidate, train(tried, levels, warmup=3.0, seconds=seconds)
