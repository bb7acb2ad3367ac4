"""Figure 4(b, c): the agent's heads on one suite by equal frames, and what each level gets alone (section 6.1).

Every head is trained from several seeds as separate runs of `impala-mi train`, and scored over complete episodes by
`impala-mi eval`. How much the levels stand in each other's way is measured apart: by agents of one level each, with
the shared head, that see as many frames of it as the shared head's run of that seed had. The paper has no such
agents; it takes the gain of one head per task as the sign of interference.
"""

import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from impala_mi import preflight
from impala_mi.analysis.compare import curve, interval
from impala_mi.analysis.history import History, read
from impala_mi.config import Config, build, to_yaml
from impala_mi.envs.scores import has_references
from impala_mi.errors import TrainingError, UserError
from impala_mi.experiments.findings import Findings, Table
from impala_mi.experiments.study import Progress, Study
from impala_mi.rundir import write_atomically

HEADS = ("shared", "per_task", "mi_task", "mi_context")
ALONE = "one agent a level"
QUICK_FRAMES = 1_000_000
POLL_S = 5.0
Told = Callable[[float], None]
"""Told the share of its own work that is done."""
CLAIM = (
    "one head per task beats a shared head, a multiplicative head whose context comes from the task beats both, "
    "and one whose context is learnt gains as much without being told the task (figure 4)."
)
CLAUSES: Mapping[str, Sequence[tuple[str, str]]] = {
    "one head per task beats the shared one": [("per_task", "shared")],
    "the multiplicative head of the task beats both": [("mi_task", "shared"), ("mi_task", "per_task")],
    "the one of a learnt context beats the shared one": [("mi_context", "shared")],
}
"""What the paper says, as pairs of which the first is better. "Gains as much" is not decided, only its difference
told: so few seeds cannot show that two heads are equal."""
PAIRS = [pair for pairs in CLAUSES.values() for pair in pairs] + [("mi_context", "mi_task"), (ALONE, "shared")]
CONFIDENCE = 1 - 0.05 / len(PAIRS)
"""Of each interval, so that all hold together with 95 % (Bonferroni)."""
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
    for name in HEADS:
        preflight.check(_changed(config, Path(), name, 1, {"agent": {"head": name}}))
    for level in suite.level_names:
        preflight.check(_changed(config, Path(), level, 1, {"env": {"levels": [level]}}))
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


def _changed(config: Config, root: Path, name: str, seed: int, changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """The configuration of one run."""
    values = config.model_dump(mode="json") | {"seed": seed}
    for section, some in ({"run": {"root": str(root), "name": name}} | dict(changes)).items():
        values[section] = values[section] | some
    return build(name, values)


def _head(name: str, study: Study, config: Config, seed: int, told: Told) -> dict[str, Any]:
    """Normalised scores by level of one agent."""
    root = study.folder / "runs"
    mine = _changed(config, root, f"{name}-{seed}", seed, {"agent": {"head": name}})
    return {"scores": _train(mine, study.settings["episodes"], told)}


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
        found |= _train(_changed(config, root, name, seed, changes), study.settings["episodes"], mine)
    return {"scores": found}


def _train(config: Config, episodes: int, told: Told) -> dict[str, float]:
    """Train one run, or go on with it, and score it: by level, 0 a random player, 100 the reference."""
    root, name = Path(config.run.root), str(config.run.name)
    root.mkdir(parents=True, exist_ok=True)
    file, log = root / f"{name}.yaml", root / f"{name}.log"
    write_atomically(file, to_yaml(config))
    _call(["train", str(file), "--resume", "auto"], log, lambda: told(_share(root / name, config)))
    _call(["eval", str(root / name), "--episodes", str(episodes)], log, lambda: None)
    last = max((root / name / "checkpoints").glob("[0-9]*")).name
    evaluation = json.loads((root / name / "eval" / f"{last}.json").read_text(encoding="utf-8"))
    return {row["level"]: row["score"] for row in evaluation["levels"]}


def _call(arguments: Sequence[str], log: Path, tell: Callable[[], None]) -> None:
    """A command of ours, in its own process; an interrupt is passed on and waited for: it writes a checkpoint."""
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "impala_mi", *arguments], stdout=out, stderr=out, start_new_session=True
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                tell()
        finally:
            while process.poll() is None:
                process.send_signal(signal.SIGTERM)  # unlike SIGINT, background jobs of a shell do not ignore it
                try:
                    process.wait()
                except KeyboardInterrupt:  # again: the command is told again, and ends at once
                    continue
    if process.returncode:
        raise TrainingError(f"impala-mi {' '.join(arguments)} ended with {process.returncode}: see {log}")


def _share(folder: Path, config: Config) -> float:
    """Of its frames that a run has done, as of its last record."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2**16))
            record = json.loads(file.read().splitlines()[-1])
        return float(min(1.0, record["env_frames"] / config.train.env_frames))
    except (OSError, ValueError, IndexError, KeyError):  # it has not begun, or is being written
        return 0.0


def findings(runs: Path, scores: Mapping[str, Sequence[Mapping[str, float]]], seeds: Sequence[int]) -> Findings:
    """Compare the heads by their mean capped score over levels."""
    levels = list(scores[HEADS[0]][0])
    table = {name: np.array([[row[level] for level in levels] for row in rows]) for name, rows in scores.items()}
    capped = {name: np.minimum(rows, 100.0).mean(1) for name, rows in table.items()}
    gains = {pair: _gain(capped[pair[0]], capped[pair[1]]) for pair in PAIRS}

    def capped_mean(name: str) -> str:
        mean, half = interval(capped[name])
        return f"{mean:.1f} ± {half:.1f}"

    return Findings(
        CLAIM,
        verdict(gains),
        [
            Table(
                f"Capped score over levels, its 95 % interval over {len(seeds)} seeds, and the score of each level",
                ["head", "capped mean", *levels],
                [[name, capped_mean(name), *map(float, rows.mean(0))] for name, rows in table.items()],
            ),
            Table(
                "Differences of capped means (all intervals together of 95 %: Welch's, Bonferroni)",
                ["", "against", "difference"],
                [[*pair, _told_gain(gain)] for pair, gain in gains.items()],
            ),
        ],
        {"multitask": _draw(runs, seeds, capped)},
        {"levels": levels, "seeds": list(seeds), "gains": {" against ".join(k): v for k, v in gains.items()}}
        | {"scores": {name: rows.tolist() for name, rows in table.items()}},
    )  # fmt: skip


Gain = tuple[float, float, float]
"""A difference of means and the ends of its interval."""


def _gain(rows: np.ndarray, base: np.ndarray) -> Gain:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # scores may be equal where none scores, or all reach the cap
        found = stats.ttest_ind(rows, base, equal_var=False).confidence_interval(CONFIDENCE)
    return float(rows.mean() - base.mean()), float(found.low), float(found.high)


def _told_gain(gain: Gain) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*gain)


def verdict(gains: Mapping[tuple[str, str], Gain]) -> str:
    """How many of the paper's clauses held: those of which every interval is above 0."""
    said = []
    for clause, pairs in CLAUSES.items():
        shown = all(gains[pair][1] > 0 for pair in pairs)
        against = any(gains[pair][2] < 0 for pair in pairs)
        numbers = ", ".join(f"{_told_gain(gains[pair])} over {pair[1]}" for pair in pairs)
        said.append(
            (shown, f"{clause}: {'held' if shown else 'the contrary' if against else 'not shown'} ({numbers})")
        )
    held = sum(shown for shown, _ in said)
    alone = gains[ALONE, "shared"]
    interference = (
        "there is" if alone[1] > 0 else "there is none, levels help each other" if alone[2] < 0 else "none is shown"
    )
    return (
        f"{held} of {len(said)} clauses held. " + "; ".join(text for _, text in said)
        + f". The learnt context against that of the task: {_told_gain(gains['mi_context', 'mi_task'])}. "
        f"Interference: {interference} (agents of one level each, at as many frames of it, over the shared head: "
        f"{_told_gain(alone)})."
    )  # fmt: skip


def _draw(runs: Path, seeds: Sequence[int], capped: dict[str, np.ndarray]) -> Figure:
    """Figure 4(b, c): capped score over frames while training, and as evaluated."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for number, name in enumerate(HEADS):
        histories: list[History] = [read(str(runs / f"{name}-{seed}")) for seed in seeds]
        if (found := curve(histories, "score/capped_mean")) is not None:
            left.plot(found.frames / 1e6, found.mean, color=f"C{number}", label=name)
            if found.low is not None and found.high is not None:
                left.fill_between(found.frames / 1e6, found.low, found.high, color=f"C{number}", alpha=0.15, lw=0)
    left.set(xlabel="env frames (millions)", ylabel="mean capped score, last episodes", ylim=(0, None))
    if left.lines:
        left.legend(frameon=False)
    for number, (name, values) in enumerate(capped.items()):
        right.plot([number] * len(values), values, "o", color="0.6" if name == ALONE else f"C{number}", alpha=0.6)
        right.plot([number - 0.25, number + 0.25], [values.mean()] * 2, color="0.2")
    right.set_xticks(range(len(capped)), [name.replace(" ", "\n", 1) for name in capped], rotation=40, ha="right")
    right.set(ylabel="mean capped score, evaluated", ylim=(0, None))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure
