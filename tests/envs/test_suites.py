import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from impala_mi.config import EnvConfig
from impala_mi.envs import babyai, doom, tiny
from impala_mi.envs.conformance import check_game
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.host.tempdirs import sweep

LEVELS = [
    *(("doom", level.name) for level in doom.LEVELS),
    *(("babyai", level.name) for level in babyai.LEVELS),
    *(("tiny", level.name) for level in tiny.LEVELS),
    *(("gym", name) for name in ("CartPole-v1", "Acrobot-v1", "Pendulum-v1")),
    *(("gym", f"tests.gym_envs:{name}-v0") for name in ("Match", "Reach")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "level"), LEVELS)
def test_every_level_conforms(suite, level, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_game(make_suite(EnvConfig(suite=suite, levels=[level])), level)
    assert list(tmp_path.iterdir()) == [], "a game left files in the current folder"


def test_doom_has_nine_levels_nine_actions_and_small_frames():
    suite = make_suite(EnvConfig(suite="doom"))
    assert len(suite.levels) == 9
    assert suite.spaces.num_actions == 9
    assert suite.spaces.frame_shape == (72, 96, 3)
    assert suite.action_repeat == 4


def test_doom_actions_do_what_they_are_called():
    """deadly_corridor offers every button: the view and the distance to the vest tell them apart."""
    suite = make_suite(EnvConfig(suite="doom", levels=["deadly_corridor"]))
    game = suite.make_game("deadly_corridor")
    rewards, frames = {}, {}
    for i, name in enumerate(suite.actions):
        game.reset(3)
        outcomes = [game.step(i) for _ in range(3)]
        rewards[name] = sum(o.reward for o in outcomes)
        frames[name] = outcomes[-1].observation.frame
    game.close()
    assert rewards["forward"] > 5 > rewards["look_left"]  # the reward is the progress towards the vest
    assert rewards["backward"] <= 0
    distinct = {frame.tobytes() for frame in frames.values()}
    assert len(distinct) == len(suite.actions)


def test_doom_does_not_repeat_itself_under_another_seed():
    suite = make_suite(EnvConfig(suite="doom", levels=["basic"]))
    game = suite.make_game("basic")
    frames = [game.reset(seed).frame for seed in (1, 2, 3, 1)]
    game.close()
    assert np.array_equal(frames[0], frames[3])
    assert len({f.tobytes() for f in frames}) > 1


def test_doom_processes_and_files_go_with_the_game(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    suite = make_suite(EnvConfig(suite="doom", levels=["basic"]))
    game = suite.make_game("basic")
    game.reset(1)
    children = psutil.Process().children(recursive=True)
    assert any("vizdoom" in p.name() for p in children)
    assert list(tmp_path.iterdir())
    game.close()
    psutil.wait_procs(children, timeout=5)
    assert not any("vizdoom" in p.name() for p in psutil.Process().children(recursive=True))
    assert list(tmp_path.iterdir()) == []


def test_babyai_missions_are_instructions():
    suite = make_suite(EnvConfig(suite="babyai"))
    assert len(suite.levels) >= 10
    assert suite.spaces.instructions
    game = suite.make_game("GoToLocal")
    missions = {game.reset(seed).instruction for seed in range(8)}
    game.close()
    assert len(missions) > 1
    assert all(m.startswith("go to") for m in missions)


@pytest.mark.parametrize(
    ("level", "answers"), [("memory", {0, 1, 2}), ("language", {0, 1, 2}), ("always_left", {0})]
)
def test_tiny_answers_are_drawn(level, answers):
    game = tiny.TinyGame(level)
    drawn = set()
    for seed in range(30):
        game.reset(seed)
        drawn.add(game.answer)
    assert drawn == answers


def test_tiny_memory_shows_its_answer_once():
    game = tiny.TinyGame("memory")
    assert game.reset(1).frame.any()
    outcome = game.step(1)
    blank = 0
    while not outcome.terminated:
        blank += 1
        assert not outcome.observation.frame.any()
        outcome = game.step(game.answer)
    assert blank == 4
    assert outcome.reward == 1.0


def gym(*levels: str, **changes):
    return make_suite(EnvConfig(suite="gym", levels=list(levels), **changes))


def test_gym_repeats_actions_and_sums_rewards():
    suite = gym("CartPole-v1", action_repeat=4)
    game = suite.make_game("CartPole-v1")
    game.reset(0)
    assert game.step(0).reward == 4.0
    outcome = game.step(0)
    while not outcome.terminated:
        outcome = game.step(0)
    assert outcome.reward <= 4.0
    game.close()
    assert suite.action_repeat == 4
    assert suite.levels[0].reference_score == 475.0


@pytest.mark.parametrize("suite", ["tiny", "babyai"])
def test_single_steps_are_not_repeated(suite):
    with pytest.raises(UserError, match=r"env\.action_repeat=4"):
        make_suite(EnvConfig(suite=suite, action_repeat=4))


@pytest.mark.parametrize("suite", ["doom", "babyai", "tiny"])
def test_every_level_has_scores_and_their_source(suite):
    for level in make_suite(EnvConfig(suite=suite)).levels:
        assert level.random_score < level.reference_score
        assert level.reference_source


@pytest.mark.slow
def test_a_killed_player_takes_its_games_along(tmp_path, monkeypatch):
    code = (
        "from impala_mi.envs.suites import make_suite; from impala_mi.config import EnvConfig\n"
        "import time; g = make_suite(EnvConfig(suite='doom', levels=['basic'])).make_game('basic'); g.reset(1)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    env = os.environ | {"TMPDIR": str(tmp_path)}
    player = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    assert player.stdout.readline() == "up\n"
    games = psutil.Process(player.pid).children(recursive=True)
    assert [p.name() for p in games] == ["vizdoom"]
    player.kill()
    player.wait()
    _, alive = psutil.wait_procs(games, timeout=5)
    assert alive == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sweep()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        (["CartPole-v1", "Acrobot-v1"], "cannot be trained together: observation shape"),
        (["CartPole-v9"], "cannot make 'CartPole-v9'"),
        (["CartPole-v1", "Pendulum-v1"], "cannot be trained together: observation shape"),
        (["tests.gym_envs:Match-v0", "tests.gym_envs:Reach-v0"], "cannot be trained together: observation shape"),
        (["FrozenLake-v1"], "only images"),
        (["CartPole-v1", "CartPole-v1"], "twice"),
        ([], "needs env.levels"),
    ],
)
def test_gym_refuses(levels, says):
    with pytest.raises(UserError, match=says):
        gym(*levels)
    with pytest.raises(UserError, match=r"needs env\.levels"):
        make_suite(EnvConfig(suite="gym"))


@pytest.mark.parametrize(
    ("levels", "says"),
    [(["health_gatherin"], "did you mean 'health_gathering'"), ([], "empty"), (["basic", "basic"], "twice"),
     (["xyz"], "the levels of 'doom' are basic")],
)  # fmt: skip
def test_level_names(levels, says):
    with pytest.raises(UserError, match=says):
        make_suite(EnvConfig(suite="doom", levels=levels))


@pytest.mark.skipif(importlib.util.find_spec("ale_py") is not None, reason="the atari extra is installed")
def test_a_missing_atari_names_its_extra():
    with pytest.raises(UserError, match=r"pip install 'impala-mi\[atari\]'"):
        gym("ale_py:ALE/Pong-v5")


def test_a_shipped_suite_that_cannot_be_imported_is_named_as_the_user_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "impala_mi.envs.tiny", None)
    with pytest.raises(UserError, match=r"^env\.suite='tiny': cannot be imported: ModuleNotFoundError"):
        make_suite(EnvConfig(suite="tiny"))


@pytest.mark.parametrize(
    ("suite", "is_added"),
    [
        ({"suite": "tiny"}, False),
        ({"suite": "gym", "levels": ["CartPole-v1"]}, False),
        ({"suite": "gym", "levels": ["tests.gym_envs:Match-v0"]}, True),
        ({"suite": "tests.games:counting"}, True),
    ],
)
def test_the_current_folder_is_searched_for_modules_of_the_user_alone(tmp_path, monkeypatch, suite, is_added):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    make_suite(EnvConfig(**suite))
    assert (str(tmp_path) in sys.path) == is_added


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "package"), [("doom", "vizdoom"), ("doom", "cv2"), ("babyai", "minigrid")])
def test_a_missing_package_names_its_extra(suite, package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from impala_mi.envs.suites import make_suite; from impala_mi.config import EnvConfig\n"
        f"make_suite(EnvConfig(suite={suite!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'impala-mi[{suite}]'" in done.stderr
    assert "MissingPackageError" in done.stderr


@pytest.mark.slow
def test_a_doom_process_is_renewed_and_episodes_stay_what_they_are(monkeypatch):
    def episodes(renewed_after):
        monkeypatch.setattr(doom, "RENEW_EPISODES", renewed_after)
        game = make_suite(EnvConfig(suite="doom")).make_game("deadly_corridor")
        played, processes = [], set()
        for seed in range(5):
            played.append([game.reset(seed).frame, *(game.step(action).reward for action in (8, 0, 8, 4))])
            processes |= {p.pid for p in psutil.Process().children(recursive=True) if p.name() == "vizdoom"}
        game.close()
        return played, len(processes)

    expected, num_processes = episodes(10)
    renewed, num_processes_renewed = episodes(2)
    assert (num_processes, num_processes_renewed) == (1, 3)
    for a, b in zip(expected, renewed, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]


def test_doom_leaves_no_names_in_shared_memory():
    """They would remain if the process were killed."""
    game = make_suite(EnvConfig(suite="doom")).make_game("basic")
    for seed in range(2):
        game.reset(seed)
        mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "/ViZDoom" in line]
        assert mapped
        assert all(line.endswith("(deleted)") for line in mapped)
        assert game.step(0).observation is not None
    game.close()
