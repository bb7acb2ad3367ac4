"""The DMLab-30 suite (Beattie et al. 2016): 30 levels with the human and random scores that normalise them.

Human and random scores are those of IMPALA's published code. The paper (table B.1) swaps the scores of the small
and the large lasertag levels, and its result of 49.4 uses the swapped ones; `env.dmlab.human_scores` selects
either. Two of the thirty levels have held-out variants; the others use another random stream of the same
distribution.
"""

import functools
import importlib.util
from pathlib import Path

from impala_mi.config import EnvConfig
from impala_mi.config_suites import DmlabConfig
from impala_mi.envs.base import Level, Suite
from impala_mi.envs.choose import choose_levels
from impala_mi.envs.dmlab import ACTIONS, HEIGHT, WIDTH, LabGame, LabSettings
from impala_mi.envs.level_cache import check_folder
from impala_mi.envs.map_compiles import locks_folder
from impala_mi.envs.process import ProcessGame
from impala_mi.errors import UserError
from impala_mi.paths import local_path
from impala_mi.types import Spaces

HELD_OUT_MIXER_SEED = 0x600D5EED
"""Mixer seed of IMPALA's evaluation."""

# level: (random score, human score)
SCORES = {
    "rooms_collect_good_objects_train": (0.073, 10.0),
    "rooms_exploit_deferred_effects_train": (8.501, 85.65),
    "rooms_select_nonmatching_object": (0.312, 65.9),
    "rooms_watermaze": (4.065, 54.0),
    "rooms_keys_doors_puzzle": (4.135, 53.8),
    "language_select_described_object": (-0.07, 389.5),
    "language_select_located_object": (1.929, 280.7),
    "language_execute_random_task": (-5.913, 254.05),
    "language_answer_quantitative_question": (-0.33, 184.5),
    "lasertag_one_opponent_small": (-0.224, 12.65),
    "lasertag_three_opponents_small": (-0.214, 18.55),
    "lasertag_one_opponent_large": (-0.083, 18.6),
    "lasertag_three_opponents_large": (-0.102, 31.5),
    "natlab_fixed_large_map": (2.173, 36.9),
    "natlab_varying_map_regrowth": (2.989, 24.45),
    "natlab_varying_map_randomized": (7.346, 42.35),
    "skymaze_irreversible_path_hard": (0.1, 100.0),
    "skymaze_irreversible_path_varied": (14.4, 100.0),
    "psychlab_arbitrary_visuomotor_mapping": (0.163, 58.75),
    "psychlab_continuous_recognition": (0.224, 58.3),
    "psychlab_sequential_comparison": (0.129, 39.5),
    "psychlab_visual_search": (0.085, 78.5),
    "explore_object_locations_small": (3.575, 74.45),
    "explore_object_locations_large": (4.673, 65.65),
    "explore_obstructed_goals_small": (6.76, 206.0),
    "explore_obstructed_goals_large": (2.61, 119.5),
    "explore_goal_locations_small": (7.66, 267.5),
    "explore_goal_locations_large": (3.14, 194.5),
    "explore_object_rewards_few": (2.073, 77.7),
    "explore_object_rewards_many": (2.438, 106.7),
}
PAPER_LABELS = {
    "lasertag_one_opponent_small": "lasertag_one_opponent_large",
    "lasertag_three_opponents_small": "lasertag_three_opponents_large",
    "lasertag_one_opponent_large": "lasertag_one_opponent_small",
    "lasertag_three_opponents_large": "lasertag_three_opponents_small",
}
"""Maps a level to the level whose scores in `SCORES` the paper gives it."""
HELD_OUT_NAMES = {
    "rooms_collect_good_objects_train": "rooms_collect_good_objects_test",
    "rooms_exploit_deferred_effects_train": "rooms_exploit_deferred_effects_test",
}
NEED_DATASET = ("psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition")
CACHED = ("rooms_keys_doors_puzzle", "language_", "lasertag_", "skymaze_", "explore_")
"""Prefixes of the levels that compile maps and use the level cache."""
CACHED_IN_STEPS = ("language_",)
"""Prefixes of the levels that also compile maps in the middle of an episode."""
STEP_TIMEOUT_S = 60.0
"""Timeout of a step without map compilation, which normally takes milliseconds."""


def levels(human_scores: str, held_out: bool) -> tuple[Level, ...]:
    """All thirty levels, with the human scores of the `paper` or of the `code`."""
    source = "human, IMPALA's paper" if human_scores == "paper" else "human, IMPALA's code"
    labels = PAPER_LABELS if human_scores == "paper" else {}
    names = HELD_OUT_NAMES if held_out else {}
    return tuple(Level(names.get(name, name), *SCORES[labels.get(name, name)], source) for name in SCORES)


def dmlab30(config: EnvConfig) -> Suite:
    """Make the suite; its `check` raises `UserError` if the module, the images or the cache folder is missing."""
    lab = config.dmlab
    training = levels(lab.human_scores, held_out=False)
    chosen = choose_levels("dmlab30", training, config.levels)
    folder = None if lab.level_cache is None else local_path(lab.level_cache, "env.dmlab.level_cache").absolute()
    images = None if lab.dataset_path is None else local_path(lab.dataset_path, "env.dmlab.dataset_path").absolute()
    repeat = config.action_repeat or 4
    settings = LabSettings(
        actions=lab.actions,
        action_repeat=repeat,
        renderer=lab.renderer,
        held_out=lab.held_out,
        mixer_seed=HELD_OUT_MIXER_SEED if lab.held_out else lab.mixer_seed,
        dataset_path=None if images is None else str(images),
        level_cache=folder,
        level_cache_bytes=None if lab.level_cache_gib is None else int(lab.level_cache_gib * 2**30),
        locks=locks_folder(),
    )
    if lab.held_out:
        variants = dict(zip(training, levels(lab.human_scores, held_out=True), strict=True))
        chosen = tuple(variants[level] for level in chosen)
    held_out = config.model_copy(update={"dmlab": lab.model_copy(update={"held_out": True})})
    return Suite(
        name="dmlab30",
        levels=chosen,
        spaces=Spaces((HEIGHT, WIDTH, 3), "uint8", len(ACTIONS[lab.actions]), len(chosen), instructions=True),
        actions=tuple(ACTIONS[lab.actions]),
        make_game=functools.partial(_make_game, settings, lab.timeout_s),
        action_repeat=repeat,
        truncation_is_terminal=True,
        step_threads=256,
        alternate=True,
        compiles=tuple(level.name for level in chosen if level.name.startswith(CACHED)),
        scores_note=f"human scores of the lasertag levels: env.dmlab.human_scores={lab.human_scores}",
        variant=f"held-out levels, mixer seed {HELD_OUT_MIXER_SEED:#x}" if lab.held_out else "training levels",
        held_out=functools.partial(dmlab30, held_out),
        check=functools.partial(_check, lab, chosen, folder),
    )


def _make_game(settings: LabSettings, timeout_s: float, level: str) -> ProcessGame:
    step = None if level.startswith(CACHED_IN_STEPS) else min(timeout_s, STEP_TIMEOUT_S)
    return ProcessGame(functools.partial(LabGame, level, settings), level, timeout_s, step)


def _check(lab: DmlabConfig, chosen: tuple[Level, ...], cache: Path | None) -> None:
    """Raise `UserError` if the module, the images of a level or the cache folder is missing."""
    if importlib.util.find_spec("deepmind_lab") is None:  # not imported here: only child processes load it
        raise UserError(
            "env.suite='dmlab30': the Python module deepmind_lab is not installed, and no package index has it; "
            "docs/dmlab.md says how to build it. Suites that need no build: doom, babyai, gym"
        )
    if cache is not None:
        check_folder(cache)
    needing = [level.name for level in chosen if level.name in NEED_DATASET]
    if not needing:
        return
    verb = "show" if len(needing) > 1 else "shows"
    use = f"env.levels: {' and '.join(needing)} {verb} the images of Brady et al."
    if lab.dataset_path is None:
        raise UserError(
            f"{use}; set env.dmlab.dataset_path to their folder (docs/dmlab.md), or leave the level out"
        )
    if (problem := dataset_problem(lab.dataset_path)) is not None:
        raise UserError(f"env.dmlab.dataset_path={lab.dataset_path!r}: {problem}; {use} (docs/dmlab.md)")


def dataset_problem(path: str) -> str | None:
    """Message that says what the folder of images lacks, or None."""
    folder = local_path(path, "env.dmlab.dataset_path")
    missing = [name for name in ("0001.png", "2400.png") if not (folder / name).is_file()]
    return f"no {missing[0]} there, of 0001.png to 2400.png" if missing else None
