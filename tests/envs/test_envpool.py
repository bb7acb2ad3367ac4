"""Suite `envpool`; what needs the engine is skipped without the extra, which the default set-up leaves out."""

import ctypes.util
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from impala_mi.config import EnvConfig, load
from impala_mi.envs import envpool
from impala_mi.envs import envpool_grid as grid
from impala_mi.envs.conformance import check_game
from impala_mi.envs.envpool_levels import LEVELS, LISTS
from impala_mi.envs.suites import make_suite
from impala_mi.envs.vector import VectorEnv
from impala_mi.errors import UserError
from impala_mi.training.preflight import check
from impala_mi.types import AgentInput, transitions_buffer

needs_engine = pytest.mark.skipif(
    importlib.util.find_spec("envpool") is None, reason="needs pip install 'impala-mi[envpool]'"
)
needs_qt = pytest.mark.skipif(ctypes.util.find_library("Qt5Gui") is None, reason="needs apt install libqt5gui5")
CONFIGS = ["babyai40", "minigrid", "procgen16", "atari57"]


def suite(*levels: str, **changes):
    return make_suite(EnvConfig(suite="envpool", levels=list(levels), **changes))


def vector(made, levels: list[int], root: int = 1) -> tuple[VectorEnv, AgentInput]:
    out = AgentInput(*(a[0] for a in transitions_buffer(made.spaces, 1, len(levels), 24).inputs))
    return VectorEnv(made, levels, made.assign_seeds([root], levels), 24), out


def test_lists_have_distinct_levels_with_scores():
    assert {name: len(ids) for name, ids in LISTS.items()} == {
        "babyai40": 40,
        "minigrid36": 36,
        "procgen16": 16,
        "procgen16_hard": 16,
        "atari57": 57,
    }
    listed = [level for ids in LISTS.values() for level in ids]
    assert len(set(listed)) == len(listed) == len(LEVELS)
    for name in listed:
        level = LEVELS[name]
        assert level.name == name
        assert level.random_score < level.reference_score
        assert level.reference_source


def test_cells_are_one_hot_in_each_of_their_three_numbers():
    cells = np.random.default_rng(0).integers(0, (11, 6, 3), (5, 7, 7, 3)).astype(np.uint8)
    frames = grid.frames({"obs:image": cells})
    assert (frames.shape, frames.dtype) == ((5, 7, 7, 20), np.uint8)
    assert set(np.unique(frames)) == {0, 255}
    parts = np.split(frames, [11, 17], axis=-1)
    assert all((part.sum(-1, dtype=np.int64) == 255).all() for part in parts)
    np.testing.assert_array_equal(np.stack([part.argmax(-1) for part in parts], -1), cells)


def test_a_picture_shows_objects_where_and_as_they_are():
    cells = np.zeros((1, 7, 7, 3), np.uint8)
    cells[..., 0] = grid.KINDS.index("empty")
    cells[0, 5, 2] = grid.KINDS.index("ball"), 2, 0  # a blue ball in column 5, row 2
    cells[0, 1, 6] = grid.KINDS.index("wall"), 5, 0
    picture = grid.picture(grid.frames({"obs:image": cells})[0])
    assert (picture.shape, picture.dtype) == ((56, 56, 3), np.uint8)
    tiles = picture.reshape(7, 8, 7, 8, 3).swapaxes(1, 2)  # row, column, y, x, RGB
    assert (tiles[6, 1] == 100).all()
    ball = tiles[2, 5].reshape(-1, 3)
    assert {tuple(pixel) for pixel in ball.tolist()} == {(0, 0, 0), (0, 0, 255)}
    tiles[2, 5] = tiles[6, 1] = 0
    assert not tiles.any()


def test_kinds_and_door_states_look_different():
    looks = set()
    for kind, name in enumerate(grid.KINDS):
        for door in range(3 if name == "door" else 1):
            cells = np.zeros((1, 7, 7, 3), np.uint8)
            cells[..., 0], cells[..., 1], cells[..., 2] = kind, 1, door
            looks.add(grid.picture(grid.frames({"obs:image": cells})[0]).tobytes())
    assert len(looks) == 13 - 2  # empty and agent are blank; wall and goal differ by their colours alone


def test_success_in_the_last_step_is_no_truncation():
    state = {"trunc": np.array([True, True, True, False]), "reward": np.array([0, 0.1, -1, 0.5], np.float32)}
    assert grid.truncated(state).tolist() == [True, False, False, False]


def test_a_game_over_at_the_frame_limit_is_no_truncation():
    state = {"trunc": np.array([True, True, False]), "info:terminated": np.array([0, 1, 1], np.int32)}
    assert envpool.atari_truncated(state).tolist() == [True, False, False]


def test_a_level_complete_at_the_step_limit_is_no_truncation():
    state = {"trunc": np.array([True, True, False]), "info:prev_level_complete": np.array([0, 1, 1], np.int32)}
    assert envpool.FAMILIES["procgen"].truncated(state).tolist() == [True, False, False]


def test_missions_end_at_the_first_zero():
    rows = np.zeros((2, 16), np.uint8)
    rows[0, :9] = np.frombuffer(b"go to red", np.uint8)
    assert grid.missions({"obs:mission": rows}) == ["go to red", ""]


@pytest.mark.slow
@needs_engine
@pytest.mark.parametrize("level", ["BabyAI-GoToLocalS5N2-v0", "BabyAI-OpenDoorLoc-v0", "MiniGrid-DoorKey-5x5-v0"])
def test_grid_levels_conform(level):
    check_game(suite(level), level)


@pytest.mark.slow
@needs_engine
@needs_qt
@pytest.mark.parametrize("level", [*LISTS["procgen16"], *LISTS["procgen16_hard"]])
def test_procgen_levels_conform(level):
    check_game(suite(level), level, steps=60)


@pytest.mark.slow
@needs_engine
@pytest.mark.parametrize("atari", ["no_ops", "sticky"])
def test_atari_levels_conform(atari):
    check_game(suite("Breakout-v5", envpool={"atari": atari}), "Breakout-v5", steps=250)


@pytest.mark.slow
@needs_engine
@pytest.mark.parametrize("level", [*LISTS["babyai40"], *LISTS["minigrid36"]])
def test_every_grid_level_conforms(level):
    check_game(suite(level), level, steps=700)


@needs_engine
def test_levels_mix_in_one_actor_and_no_step_is_lost_or_hidden():
    """Every step of the engine is a step of an episode: same-step resets cost none."""
    names = ["BabyAI-GoToObjS4-v0", "BabyAI-PickupLoc-v0", "MiniGrid-Empty-Random-5x5-v0"]
    made = suite(*names)
    v, out = vector(made, [0, 1, 2] * 4)
    v.reset(out)
    rng, lengths, returns = np.random.default_rng(0), np.zeros(12, int), np.zeros(12)
    ended = truncated = 0
    for _ in range(300):
        result = v.step(rng.integers(0, 7, 12), out)
        lengths += 1
        returns += result.reward
        final = dict(result.final_observations)
        for e, episode in result.episodes:
            assert episode.level == e % 3
            assert (episode.length, episode.return_) == (lengths[e], pytest.approx(returns[e]))
            assert result.truncated[e] == (e in final) == (episode.return_ == 0)
            assert episode.return_ == 0 or 0.1 < episode.return_ <= 1
            lengths[e], returns[e] = 0, 0
            ended += 1
            truncated += e in final
        assert {e for e, _ in result.episodes} == set(np.flatnonzero(out.first))
        assert all(f.frame.shape == (7, 7, 20) for f in final.values())
        engine = [level.batch._pools[0] for level in v._players._levels]
        assert len({id(pool) for pool in engine}) == 3
    assert ended > truncated > 0
    v.close()


@needs_engine
def test_environments_repeat_with_their_seeds_and_differ_from_one_another():
    made = suite("BabyAI-GoToLocal-v0")

    def play(root: int):
        v, out = vector(made, [0] * 3, root)
        v.reset(out)
        rng, rows = np.random.default_rng(0), []
        for _ in range(150):  # beyond the first episode
            v.step(rng.integers(0, 7, 3), out)
            rows.append((out.frame.copy(), out.tokens.copy()))
        v.close()
        return [np.stack(x) for x in zip(*rows, strict=True)]

    first, again, other = play(1), play(1), play(2)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0][:, 0], first[0][:, 1])


@needs_engine
def test_missions_are_instructions_that_change_with_the_episode():
    made = suite("BabyAI-GoToLocal-v0")
    game = made.make_game("BabyAI-GoToLocal-v0")
    missions = {game.reset(seed).instruction for seed in range(8)}
    assert len(missions) > 1
    assert all(mission.startswith("go to") for mission in missions)
    last = game.reset(3).instruction
    assert game.step(0).observation.instruction == last
    game.close()


@pytest.mark.slow
@needs_engine
@pytest.mark.skipif(importlib.util.find_spec("minigrid") is None, reason="needs pip install 'impala-mi[babyai]'")
@pytest.mark.parametrize("level", ["GoToLocal", "OpenDoor", "PutNextLocal", "UnlockLocal"])
def test_missions_are_those_of_the_suite_babyai(level):
    made, old = suite(f"BabyAI-{level}-v0"), make_suite(EnvConfig(suite="babyai", levels=[level]))

    def words(game) -> set[str]:
        found = {word for seed in range(150) for word in game.reset(seed).instruction.split()}
        game.close()
        return found

    assert words(made.make_game(f"BabyAI-{level}-v0")) == words(old.make_game(level))


@pytest.mark.slow
@needs_engine
def test_atari_has_the_full_action_set_and_its_frame_limit():
    made = suite("Pong-v5", "Breakout-v5", action_repeat=4)
    assert (made.spaces.num_actions, made.spaces.frame_shape, made.action_repeat) == (18, (84, 84, 4), 4)
    game = made.make_game("Pong-v5")
    game.reset(1)
    config = game._batch._pools[0].config
    assert config["max_episode_steps"] * config["frame_skip"] == 108_000
    assert config["full_action_space"]
    game.close()


@needs_engine
@pytest.mark.parametrize(
    ("levels", "says"),
    [
        (["BabyAI-GoToLocl-v0"], "did you mean 'BabyAI-GoToLocal-v0'"),
        (["babyai4"], "did you mean 'babyai40'"),
        (["xyz"], "lists of levels are babyai40, minigrid36"),
        (["BabyAI-GoToLocal-v0", "babyai40"], "'BabyAI-GoToLocal-v0' is given twice"),
        (["BabyAI-GoToLocal-v0", "Pong-v5"], "cannot be trained together: MiniGrid and BabyAI against Atari"),
        (["MiniGrid-Dynamic-Obstacles-5x5-v0"], "has 3 actions, but the levels of its family have 7"),
        (["BabyAI-SynthS5R2-v0"], "'BabyAI-SynthS5R2-v0' hangs in EnvPool"),
        (["Ant-v5"], "no MiniGrid, BabyAI, Procgen or Atari level 'Ant-v5' in EnvPool"),
        ([], "needs env.levels"),
    ],
)
def test_refused_levels(levels, says):
    with pytest.raises(UserError, match=says):
        suite(*levels)


@needs_engine
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"action_repeat": 4}, r"env\.action_repeat=4"),
        ({"envpool": {"atari": "sticky"}}, r"env\.envpool\.atari='sticky' belongs to Atari"),
    ],
)
def test_refused_settings(changes, says):
    with pytest.raises(UserError, match=says):
        suite("BabyAI-GoToLocal-v0", **changes)
    with pytest.raises(UserError, match=r"needs env\.levels"):
        make_suite(EnvConfig(suite="envpool"))


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configurations_name_lists(name):
    config = load(name)
    assert config.env.suite == "envpool"
    (listed,) = config.env.levels
    assert config.actors.envs % len(LISTS[listed]) == 0, "every actor plays each level equally often"


@needs_engine
@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configurations_can_start(name):
    if name == "procgen16" and ctypes.util.find_library("Qt5Gui") is None:
        pytest.skip("needs apt install libqt5gui5")
    config = load(name)
    made = check(config)
    assert len(made.levels) == len(LISTS[config.env.levels[0]])


@needs_engine
def test_procgen_without_qt_names_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool.procgen", None)
    with pytest.raises(UserError, match="apt-get install libqt5gui5"):
        suite("CoinrunEasy-v0")


def test_a_missing_engine_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UserError, match=r"pip install 'impala-mi\[envpool\]'"):
        suite("BabyAI-GoToLocal-v0")


@pytest.mark.slow
@needs_engine
def test_a_suite_without_levels_to_play_loads_no_engine():
    code = "import sys, impala_mi.envs.envpool; assert 'envpool' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
