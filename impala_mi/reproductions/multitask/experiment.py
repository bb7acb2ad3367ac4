"""Which runs there are, and what cannot be compared."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from impala_mi.config import Config, build
from impala_mi.envs.scores import has_references
from impala_mi.errors import UserError
from impala_mi.reproductions.findings import Findings
from impala_mi.reproductions.multitask.comparison import ALONE, HEADS, findings
from impala_mi.reproductions.multitask.runs import Told, changed, train
from impala_mi.reproductions.study import Progress, Study
from impala_mi.runs.history import read
from impala_mi.training import preflight

QUICK_FRAMES = 1_000_000
OWN_KEYS = ("seed", "agent.head", "run.", "train.max_time_s")
"""Settings that the comparison makes itself."""


def check(config: Config, overrides: Sequence[str]) -> list[str]:
    """The levels. Raises `UserError`, before anything starts, where a configuration cannot be compared by heads."""
    for override in overrides:
        if override.partition("=")[0].strip().startswith(OWN_KEYS):
            raise UserError(
                f"override {override!r}: heads are compared over seeds and by equal frames, in a folder of their "
                "own; use --seed, --seeds, --out and train.env_frames"
            )
    if config.run.mirror is not None:
        raise UserError(
            f"run.mirror={config.run.mirror!r}: the runs of a comparison are not copied; set it to null"
        )
    suite = preflight.check(config)
    if not has_references(suite.levels):
        without = next(level.name for level in suite.levels if not has_references([level]))
        raise UserError(
            f"env.suite={config.env.suite!r}: level {without!r} has no random and reference scores to compare by; "
            "use doom, babyai, dmlab30, tiny, or give your suite's levels scores"
        )
    if len(suite.levels) < 2:
        raise UserError(
            f"env.levels={suite.level_names}: heads for several tasks are compared; name two levels or more"
        )
    for name in HEADS:
        preflight.check(changed(config, Path(), name, 1, {"agent": {"head": name}}))
    for level in suite.level_names:
        preflight.check(changed(config, Path(), level, 1, {"env": {"levels": [level]}}))
    return suite.level_names


def run(study: Study) -> Findings:
    """Train and score each head from each seed, or what is left of it, and compare them."""
    config = build("the study's configuration", study.settings["config"])
    study.begin()
    seeds = [study.seed + number for number in range(study.settings["seeds"])]
    plan = [(name, seed) for seed in seeds for name in (*HEADS, ALONE)]
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in (*HEADS, ALONE)}
    for number, (name, seed) in enumerate(plan):
        told = partial(_told, study.progress, number / len(plan), 1 / len(plan), f"{name}, seed {seed}")
        work = _alone if name == ALONE else partial(_head, name)
        part = study.part(f"{name.replace(' ', '-')}-{seed}", partial(work, study, config, seed, told))
        scores[name].append(part["scores"])
    return findings(study.folder / "runs", scores, seeds)


def _told(progress: Progress, start: float, length: float, what: str, share: float) -> None:
    progress(start + length * share, what)


def _head(name: str, study: Study, config: Config, seed: int, told: Told) -> dict[str, Any]:
    """Normalised scores by level of one agent."""
    root = study.folder / "runs"
    mine = changed(config, root, f"{name}-{seed}", seed, {"agent": {"head": name}})
    return {"scores": train(mine, study.settings["episodes"], told)}


def _alone(study: Study, config: Config, seed: int, told: Told) -> dict[str, Any]:
    """Normalised scores by level of an agent a level, trained on as many of its frames as the shared head's run."""
    found: dict[str, float] = {}
    root, levels = study.folder / "runs", study.settings["levels"]
    shared = read(str(root / f"shared-{seed}")).last
    for number, level in enumerate(levels):
        frames = int(shared["env_frames"] * shared[f"level/{level}/frames_share"])
        name = f"alone-{level.replace('/', '-')}-{seed}"
        changes: dict[str, dict[str, Any]] = {
            "agent": {"head": "shared"},
            "env": {"levels": [level]},
            "train": {"env_frames": frames},
        }
        mine = partial(_told, lambda share, _: told(share), number / len(levels), 1 / len(levels), level)
        found |= train(changed(config, root, name, seed, changes), study.settings["episodes"], mine)
    return {"scores": found}
