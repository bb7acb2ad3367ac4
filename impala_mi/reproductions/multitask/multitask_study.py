"""Runs of every head and of every level on its own, and checks of their configuration."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from impala_mi.config import Config, build
from impala_mi.envs.scores import has_references
from impala_mi.errors import UserError
from impala_mi.reproductions.multitask.multitask_report import ALONE, HEADS, multitask_data, report_from_data
from impala_mi.reproductions.multitask.train_eval_runs import RunProgress, run_config, train_and_evaluate
from impala_mi.reproductions.study import Progress, Study
from impala_mi.reproductions.study_report import StudyReport, as_stored
from impala_mi.runs.history import read
from impala_mi.training import preflight

QUICK_FRAMES = 1_000_000
"""Env frames of a run with --quick."""
OWN_KEYS = ("seed", "agent.head", "run.", "train.max_time_s")
"""Settings that the comparison makes itself."""


def check_comparable(config: Config, overrides: Sequence[str]) -> list[str]:
    """Check that heads can be compared with a configuration, before anything starts, and return its levels.

    Raises:
        UserError: the heads cannot be compared.
    """
    for override in overrides:
        if override.partition("=")[0].strip().startswith(OWN_KEYS):
            raise UserError(
                f"override {override!r}: the comparison sets seeds, frames, heads and folders itself; use --seed, "
                "--seeds, --out and train.env_frames"
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
        preflight.check(run_config(config, Path(), name, 1, {"agent": {"head": name}}))
    for level in suite.level_names:
        preflight.check(run_config(config, Path(), level, 1, {"env": {"levels": [level]}}))
    return suite.level_names


def run_study(study: Study) -> StudyReport:
    """Train and score each head from each seed, and compare them; finished parts are read."""
    config = build("the study's configuration", study.settings["config"])
    study.begin()
    seeds = [study.seed + number for number in range(study.settings["seeds"])]
    plan = [(name, seed) for seed in seeds for name in (*HEADS, ALONE)]
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in (*HEADS, ALONE)}
    for number, (name, seed) in enumerate(plan):
        progress = partial(_report, study.progress, number / len(plan), 1 / len(plan), f"{name}, seed {seed}")
        work = _alone if name == ALONE else partial(_head, name)
        part = study.part(f"{name.replace(' ', '-')}-{seed}", partial(work, study, config, seed, progress))
        scores[name].append(part["scores"])
    return report_from_data(as_stored(multitask_data(study.folder / "runs", scores, seeds)))


def _report(progress: Progress, start: float, length: float, description: str, share: float) -> None:
    progress(start + length * share, description)


def _head(name: str, study: Study, config: Config, seed: int, progress: RunProgress) -> dict[str, Any]:
    """Normalised scores by level of the agent with one head."""
    own = run_config(config, study.folder / "runs", f"{name}-{seed}", seed, {"agent": {"head": name}})
    return {"scores": train_and_evaluate(own, study.settings["episodes"], progress)}


def _alone(study: Study, config: Config, seed: int, progress: RunProgress) -> dict[str, Any]:
    """Normalised scores of one agent per level, trained on as many of its frames as the shared head's run."""
    scores: dict[str, float] = {}
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
        of_level = partial(_report, lambda share, _: progress(share), number / len(levels), 1 / len(levels), level)
        own = run_config(config, root, name, seed, changes)
        scores |= train_and_evaluate(own, study.settings["episodes"], of_level)
    return {"scores": scores}
