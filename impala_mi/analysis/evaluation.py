"""Evaluation: scores of complete episodes of every level, beside a random player and the reference."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from impala_mi.analysis.acting import TrainedAgent
from impala_mi.analysis.play import MAX_EPISODE_STEPS, OnEpisode, OnProgress, play
from impala_mi.analysis.stats import bootstrap_interval, standard_error
from impala_mi.envs.base import Level, Suite
from impala_mi.envs.scores import capped_mean, normalised
from impala_mi.errors import UserError
from impala_mi.nn.heads import task_settings
from impala_mi.types import Episode

Progress = Callable[[str, int], contextlib.AbstractContextManager[OnEpisode]]
"""Function of a player's name and its number of episodes that reports them while the block runs."""


@dataclass(frozen=True)
class Summary:
    """Statistics of the returns of episodes."""

    episodes: int
    mean: float
    stderr: float
    low: float
    """Lower end of the 95 % bootstrap interval of the mean."""
    high: float
    """Upper end of that interval."""
    length: float
    """Mean length in agent steps."""


def summarise(episodes: Sequence[Episode]) -> Summary:
    """Mean return with its standard error and interval, which is unbounded for a single episode."""
    returns = np.array([e.return_ for e in episodes])
    n, length = len(returns), float(np.mean([e.length for e in episodes]))
    if n == 1:
        return Summary(1, float(returns[0]), math.inf, -math.inf, math.inf, length)
    resampled = bootstrap_interval((returns,), lambda sample, axis: sample.mean(axis=axis))
    return Summary(n, float(returns.mean()), float(standard_error(returns)), *resampled, length)


@dataclass(frozen=True)
class LevelResult:
    """Evaluation of one level."""

    level: str
    agent: Summary
    random: Summary | None
    """Returns of a random player, if one played."""
    random_score: float | None
    """Random player's mean return as the suite states it."""
    reference_score: float | None
    score: float | None
    """Normalised score: 0 is a random player, 100 the reference."""
    faults: int
    """Faults of the game; other episodes replaced those that they cost."""

    @property
    def capped(self) -> float | None:
        """Normalised score, at most 100."""
        return None if self.score is None else min(self.score, 100.0)

    @property
    def clearly_better(self) -> bool | None:
        """Whether the agent's interval lies above the random player's; None if no random player played."""
        return None if self.random is None else self.agent.low > self.random.high


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of all levels of a suite."""

    levels: list[LevelResult]
    capped_mean: float | None
    """Mean over levels of the capped score: averaged over episodes first, capped second, no floor. None if a level
    has no score."""
    capped_interval: tuple[float, float] | None
    """95 % bootstrap interval of the mean over the levels' episodes; None if a level has a single episode."""
    broken: dict[str, str]
    """Levels that did not work, with the reason of each; there is no mean if there are any."""
    cut_off: int = 0
    """Episodes, of the agent and of the random player, that were cut off and count with their return so far."""
    limited: bool = False
    """Whether other limits would give other scores: time ran out, or fewer than `MAX_EPISODE_STEPS` steps were
    allowed and episodes were cut off."""

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for JSON."""
        rows = [
            asdict(r) | {"capped": r.capped, "clearly_better_than_random": r.clearly_better} for r in self.levels
        ]
        for row in rows:
            for summary in filter(None, (row["agent"], row["random"])):  # a single episode: JSON has no infinity
                summary.update({k: None for k in ("stderr", "low", "high") if not math.isfinite(summary[k])})
        means = {"capped_mean": self.capped_mean, "capped_interval": self.capped_interval}
        limits = {"cut_off": self.cut_off, "limited": self.limited}
        return {**means, **limits, "levels": rows, "broken": self.broken}


def evaluation_suite(suite: Suite, training_levels: bool = False) -> Suite:
    """Suite to evaluate on: the held-out variants of the levels if there are any and unless told otherwise."""
    return suite if suite.held_out is None or training_levels else suite.held_out()


def evaluate(
    agent: TrainedAgent,
    suite: Suite,
    episodes: int,
    seed: int,
    *,
    greedy: bool = False,
    task_ids: bool = True,
    against_random: bool = False,
    processes: int | None = None,
    progress: Progress | None = None,
    on_progress: OnProgress | None = None,
    max_steps: int = MAX_EPISODE_STEPS,
    max_time_s: float = math.inf,
) -> Evaluation:
    """Play and score complete episodes of every level.

    Args:
        agent: acts.
        suite: levels to play, see `evaluation_suite`.
        episodes: number of episodes of each level.
        seed: seed of episodes and sampled actions.
        greedy: take the policy's mode instead of a sample.
        task_ids: tell the agent which level it plays.
        against_random: let a random player play as many episodes, with the next seed.
        processes: games played at once, see `play`.
        progress: reports episodes.
        on_progress: reports what goes on while no episode ends, see `play`.
        max_steps: agent steps after which an episode is cut off and counted with its return so far.
        max_time_s: seconds of playing for each player. A level then has the episodes that have ended, and counts as
            broken if none has.

    Raises:
        UserError: the policy needs task IDs and is not told them.
    """
    config = agent.config.agent
    settings = task_settings(config)
    if not task_ids and settings:
        raise UserError(
            f"without task IDs: the policy of {settings} is computed from the task ID and cannot act without it; "
            "train with agent.head=mi_context or agent.conditioned=value, and agent.torso_conditioning=none or "
            "instruction"
        )
    faults, broken, cut = Counter[int](), dict[int, str](), list[Episode]()
    total = episodes * len(suite.levels)
    report: Progress = progress or (lambda player, total: contextlib.nullcontext(lambda _: None))
    with report("agent", total) as on_episode:
        played = play(
            agent.network, suite, episodes, seed, greedy=greedy, tell_task=task_ids, on_episode=on_episode,
            on_fault=lambda level, _: faults.update([level]), on_broken=broken.__setitem__, columns=processes,
            on_progress=on_progress, on_cut_off=cut.append, max_steps=max_steps, max_time_s=max_time_s,
        )  # fmt: skip
    random = None
    if against_random:
        with report("random player", total) as on_episode:
            random = play(
                None, suite, episodes, seed + 1, on_episode=on_episode, on_broken=broken.__setitem__,
                columns=processes, on_progress=on_progress, on_cut_off=cut.append, max_steps=max_steps,
                max_time_s=max_time_s,
            )  # fmt: skip
    working = [k for k in range(len(suite.levels)) if k not in broken]
    short = any(len(player[k]) < episodes for player in (played, random or played) for k in working)
    for k in working:
        if not played[k] or (random is not None and not random[k]):
            broken[k] = f"no episode ended within {max_time_s:g} s; --max-steps cuts episodes off"
    result = score_episodes(suite.levels, played, random, faults, broken)
    limited = short or (bool(cut) and max_steps < MAX_EPISODE_STEPS)
    return replace(result, cut_off=len(cut), limited=limited)


def score_episodes(
    levels: Sequence[Level],
    agent: Sequence[Sequence[Episode]],
    random: Sequence[Sequence[Episode]] | None,
    faults: Counter[int] | None = None,
    broken: Mapping[int, str] | None = None,
) -> Evaluation:
    """Evaluation of episodes that were played.

    Args:
        levels: levels of the suite; the other arguments are by their index.
        agent: the agent's episodes.
        random: a random player's, if one played.
        faults: number of lost episodes.
        broken: reason of each level that did not work.
    """
    broken = broken or {}
    rows = []
    for k, level in enumerate(levels):
        if k in broken:
            continue
        summary = summarise(agent[k])
        rows.append(
            LevelResult(
                level.name,
                summary,
                None if random is None else summarise(random[k]),
                level.random_score,
                level.reference_score,
                normalised(level, summary.mean),
                0 if faults is None else faults[k],
            )
        )
    score = capped_mean(levels, {r.level: r.agent.mean for r in rows})
    interval = None
    if score is not None and all(len(episodes) > 1 for episodes in agent):
        interval = _capped_interval(levels, agent)
    return Evaluation(rows, score, interval, {levels[k].name: why for k, why in broken.items()})


def _capped_interval(levels: Sequence[Level], agent: Sequence[Sequence[Episode]]) -> tuple[float, float]:
    def capped(*samples: np.ndarray, axis: int) -> Any:
        scores = (normalised(level, s.mean(axis=axis)) for level, s in zip(levels, samples, strict=True))
        return np.mean([np.minimum(score, 100.0) for score in scores if score is not None], axis=0)

    return bootstrap_interval([np.array([e.return_ for e in episodes]) for episodes in agent], capped)


@rc_context({"text.parse_math": False})  # names may hold dollar signs
def draw_scores(evaluation: Evaluation, title: str, file: Path) -> None:
    """Draw a bar per level: its normalised score with the interval, cut at -50 and 150; lines mark 0 and 100."""
    rows = [row for row in reversed(evaluation.levels) if row.score is not None]
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        assert row.score is not None
        assert row.random_score is not None
        assert row.reference_score is not None
        per_point = 100 / (row.reference_score - row.random_score)
        low, high = (row.agent.low, row.agent.high) if row.agent.episodes > 1 else (row.agent.mean, row.agent.mean)
        errors = np.abs([[(row.agent.mean - low) * per_point], [(high - row.agent.mean) * per_point]])
        axes.barh(place, row.score, xerr=errors, color="tab:blue", ecolor="0.3", capsize=2)
        axes.annotate(
            str(round(row.score)), (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8
        )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(100, color="black", linewidth=0.8, linestyle="--")
    axes.margins(y=0.01)
    axes.set(xlim=(-50, 150), yticks=range(len(rows)), xlabel="0: random player, 100: reference", title=title)
    axes.set_yticklabels([row.level for row in rows], fontsize=8)
    figure.savefig(file, dpi=150)
