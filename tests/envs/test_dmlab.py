"""The adapter with a double of DeepMind Lab's module, and the agent with recordings of the real module."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from impala_mi.config import AgentConfig, EnvConfig
from impala_mi.envs.base import GameFault, Suite
from impala_mi.envs.conformance import check_game
from impala_mi.envs.dmlab import EXTENDED_ACTIONS, IMPALA_ACTIONS, LabGame
from impala_mi.envs.dmlab30 import SCORES
from impala_mi.envs.suites import make_suite
from impala_mi.envs.vector import VectorEnv
from impala_mi.nn.agent import Agent
from impala_mi.tokenizer import tokenize
from impala_mi.types import AgentInput, LSTMState, transitions_buffer
from tests.tiny import DOUBLES

RECORDINGS = Path(os.environ.get("DMLAB30_RECORDINGS", Path(__file__).parents[1] / "data" / "dmlab30"))


@pytest.fixture(autouse=True)
def _double(lab_double, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("DMLAB_DOUBLE_COMPILES", str(tmp_path / "compiles"))
    others = set(psutil.Process().children())  # Python keeps one of its own after a test that used multiprocessing
    yield
    assert list(tmp_path.glob("impala-mi-*")) == [], "a folder was left behind"
    assert list(tmp_path.glob("dmlab_temp_folder_*")) == []
    assert set(psutil.Process().children()) <= others


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("0001.png", "2400.png"):
        (folder / name).write_bytes(b"")
    return folder


def suite(tmp_path: Path, *levels: str, **lab) -> Suite:
    lab = {"level_cache": str(tmp_path / "cache"), "timeout_s": 30.0} | lab
    return make_suite(EnvConfig(suite="dmlab30", levels=list(levels) or "all", dmlab=lab))


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [False, True])
def test_every_level_conforms(held_out, tmp_path, images, monkeypatch, in_process):
    monkeypatch.setenv("DMLAB_DOUBLE_FRAMES", "200")
    made = suite(tmp_path, dataset_path=str(images), held_out=held_out)
    assert len(made.levels) == 30
    inside = dataclasses.replace(made, make_game=lambda level: in_process(made, level))
    for level in made.level_names:
        check_game(inside, level, steps=60)
    for level in made.level_names[:2]:  # in child processes
        check_game(made, level, steps=60)


def test_the_module_is_never_loaded_into_the_players_process(tmp_path):
    game = suite(tmp_path, "rooms_watermaze").make_game("rooms_watermaze")
    game.reset(1)
    assert "deepmind_lab" not in sys.modules
    game.close()


@pytest.mark.parametrize(("name", "table"), [("impala", IMPALA_ACTIONS), ("extended", EXTENDED_ACTIONS)])
def test_the_engine_reads_the_actions_that_were_meant(name, table, tmp_path, in_process):
    made = suite(tmp_path, "rooms_watermaze", actions=name)
    game = in_process(made, "rooms_watermaze")
    game.reset(1)
    for action in range(made.spaces.num_actions):
        game.step(action)
    assert list(table.values()) == in_process.double.ACTIONS
    assert made.actions == tuple(table)
    game.close()


@pytest.fixture
def in_process(monkeypatch, tmp_path):
    """Function that makes the game in this process, so that a test can inspect the double."""
    monkeypatch.syspath_prepend(str(DOUBLES))
    import deepmind_lab

    deepmind_lab.ACTIONS.clear()

    def make(made: Suite, level: str) -> LabGame:
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        return made.make_game(level)._make(str(folder))

    make.double = deepmind_lab
    yield make
    del sys.modules["deepmind_lab"]


def test_settings_reach_the_engine_as_strings(tmp_path, images, in_process):
    made = suite(tmp_path, "rooms_collect_good_objects_train", held_out=True, dataset_path=str(images))
    lab = in_process(made, "rooms_collect_good_objects_test")
    assert lab._lab._config == {
        "width": "96", "height": "72", "allowHoldOutLevels": "true", "mixerSeed": str(0x600D5EED),
        "datasetPath": str(images),
    }  # fmt: skip
    lab.close()
    plain = in_process(suite(tmp_path, "rooms_watermaze", mixer_seed=7), "rooms_watermaze")
    assert plain._lab._config == {"width": "96", "height": "72", "mixerSeed": "7"}
    plain.close()


def test_an_episode_ends_without_an_observation_and_counts_as_terminated(tmp_path, monkeypatch):
    monkeypatch.setenv("DMLAB_DOUBLE_FRAMES", "16")
    game = suite(tmp_path, "rooms_watermaze").make_game("rooms_watermaze")
    game.reset(1)
    outcomes = [game.step(0) for _ in range(4)]
    assert [o.observation is None for o in outcomes] == [False, False, False, True]
    assert (outcomes[-1].terminated, outcomes[-1].truncated) == (True, False)
    game.close()


def test_a_step_after_the_end_is_an_error_of_the_level_not_of_the_actor(tmp_path, monkeypatch):
    monkeypatch.setenv("DMLAB_DOUBLE_FRAMES", "4")
    game = suite(tmp_path, "rooms_watermaze").make_game("rooms_watermaze")
    game.reset(1)
    game.step(0)
    with pytest.raises(GameFault, match="wrong status"):
        game.step(0)
    game.close()


def test_instructions_change_in_the_middle_of_an_episode(tmp_path, monkeypatch):
    monkeypatch.setenv("DMLAB_DOUBLE_FRAMES", "400")
    made = suite(tmp_path, "language_select_located_object")
    vector = VectorEnv(made, [0], made.assign_seeds([1], [0]), 16)
    inputs = AgentInput(*(a[0] for a in transitions_buffer(made.spaces, 1, 1, 16).inputs))
    vector.reset(inputs)
    tokens = [inputs.tokens.copy()]
    for _ in range(99):
        result = vector.step(np.zeros(1, np.int64), inputs)
        assert not result.episodes
        tokens.append(inputs.tokens.copy())
    with np.load(RECORDINGS / "language_select_located_object.npz") as data:
        recorded = [tokenize(str(i), 16) for i in dict.fromkeys(data["instr"])]
    changes = [t[0] for i, t in enumerate(tokens) if i == 0 or (t != tokens[i - 1]).any()]
    np.testing.assert_array_equal(changes, recorded)
    vector.close()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_episode_in_another_process_and_other_seeds_others(tmp_path):
    made = suite(tmp_path, "explore_goal_locations_small")

    def play(seed: int, before: int) -> list[bytes]:
        game = made.make_game("explore_goal_locations_small")
        for _ in range(before):
            game.reset(1)
        frames = [game.reset(seed).frame] + [game.step(0).observation.frame for _ in range(30)]
        game.close()
        return [f.tobytes() for f in frames]

    first, later = play(5, before=0), play(5, before=1)
    assert first == play(5, before=0)
    assert later == play(5, before=2)
    assert first[0] != later[0]  # as in the real module
    assert first[1:] != later[1:]
    assert play(6, before=1) != later


@pytest.mark.slow
def test_maps_come_from_the_cache_the_second_time_also_within_an_episode(tmp_path):
    for level in ("explore_goal_locations_small", "language_execute_random_task"):
        made = suite(tmp_path, level)
        counts = []
        for _ in range(2):
            game = made.make_game(level)
            game.reset(3)
            for _ in range(200):
                game.step(1)
            counts.append(game.counts())
            game.close()
        assert set(counts[0]) == {"cache_misses"}
        assert counts[1] == {"cache_hits": counts[0]["cache_misses"]}
        assert (counts[0]["cache_misses"] > 1) == level.startswith("language_")


def test_a_damaged_entry_is_repaired_without_an_end_of_the_process(tmp_path):
    made = suite(tmp_path, "explore_goal_locations_small")
    game = made.make_game("explore_goal_locations_small")
    game.reset(3)
    (entry,) = (tmp_path / "cache").glob("??/*.map")
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])
    game.reset(3)
    assert game.counts() == {"cache_misses": 2, "cache_repairs": 1}
    assert entry.read_bytes() == whole
    game.reset(3)
    assert game.counts() == {"cache_hits": 1}
    game.close()


def test_without_a_cache_every_map_is_compiled(tmp_path):
    game = suite(tmp_path, "explore_goal_locations_small", level_cache=None).make_game(
        "explore_goal_locations_small"
    )
    game.reset(3)
    assert game.counts() == {}
    assert not (tmp_path / "cache").exists()
    game.close()


@pytest.mark.slow
def test_a_compile_longer_than_the_timeout_goes_on_because_it_uses_cpu_time(tmp_path, monkeypatch):
    monkeypatch.setenv("DMLAB_DOUBLE_COMPILE_S", "1.5")
    level = "explore_goal_locations_small"
    game = suite(tmp_path, level, timeout_s=0.8).make_game(level)
    start = time.monotonic()
    assert game.reset(1).frame.any()
    assert time.monotonic() - start > 1.5
    game.close()


@pytest.mark.slow
def test_games_compile_one_after_the_other_on_one_core_and_each_map_once(tmp_path, monkeypatch):
    """Two games need the same map, and two others one each."""
    monkeypatch.setenv("DMLAB_DOUBLE_COMPILE_S", "0.1")
    level = "explore_goal_locations_small"
    made, cores = suite(tmp_path, level), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # what games find too
    try:
        games = [made.make_game(level) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            frames = [o.frame for o in pool.map(lambda game, seed: game.reset(seed), games, (5, 5, 6, 7))]
    finally:
        os.sched_setaffinity(0, cores)
    counts = [game.counts() for game in games]
    for game in games:
        game.close()
    events = (tmp_path / "compiles").read_text().split()
    assert events[::4] == ["begin"] * 3
    assert events[2::4] == ["end"] * 3, "two at once"
    assert len(set(events[1::4])) == 3
    assert (frames[0] == frames[1]).all()
    assert sorted(map(str, counts)) == ["{'cache_hits': 1}", *["{'cache_misses': 1}"] * 3]


@pytest.mark.slow
def test_a_compiler_that_dies_leaves_its_map_and_its_turn_to_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("DMLAB_DOUBLE_COMPILE_S", "600")
    level = "explore_goal_locations_small"
    made = suite(tmp_path, level)
    lost, game = made.make_game(level), made.make_game(level)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lost.reset, 5)
        while not (tmp_path / "compiles").exists():
            time.sleep(0.01)
        monkeypatch.setenv("DMLAB_DOUBLE_COMPILE_S", "0.01")
        second = pool.submit(game.reset, 5)
        lost._child.kill_group()
        with pytest.raises(GameFault, match="ended by SIGKILL"):
            first.result()
        assert second.result().frame.any()
    assert (tmp_path / "compiles").read_text().split()[::2] == ["begin", "begin", "end"]
    lost.close()
    game.close()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["make", "reset", "step", "observations"])
@pytest.mark.parametrize("kind", ["raise", "abort", "segfault", "exit", "hang"])
def test_a_fault_anywhere_is_named(place, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("DMLAB_DOUBLE_BREAKS", f"rooms_watermaze:{place}:{kind}")
    timeout_s = (3 if place == "step" else 1) if kind == "hang" else 30
    game = suite(tmp_path, "rooms_watermaze", timeout_s=timeout_s).make_game("rooms_watermaze")

    def play():
        game.reset(1)
        game.step(1)

    with pytest.raises(GameFault, match="rooms_watermaze: ") as e:
        play()
    assert e.value.kind == {"raise": "error", "hang": "hang"}.get(kind, "crash")
    lines = e.value.output.splitlines()
    assert f"double: {kind}" in lines, "the cause stands above a traceback"
    assert lines[-1].strip() == "[C]: in ?" or kind != "exit"
    assert len(lines) <= 20
    game.close()


def test_nothing_is_touched_after_close_and_the_double_would_tell(tmp_path):
    """The double segfaults where the real module does; else the tests above would prove little."""
    code = (
        "import deepmind_lab, numpy as np\n"
        "lab = deepmind_lab.Lab('contributed/dmlab30/rooms_watermaze', ['INSTR'], {})\n"
        "lab.reset(seed=1); lab.close(); lab.close(); lab.reset(seed=1)"
    )
    env = os.environ | {"PYTHONPATH": str(DOUBLES)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == -signal.SIGSEGV


def test_the_double_is_as_unkind_as_the_real_module(in_process, tmp_path):
    lab_class, level = in_process.double.Lab, "contributed/dmlab30/rooms_watermaze"
    for wrong, error in [
        (("rooms_watermaze", ["INSTR"], {}), RuntimeError),
        ((level, ("INSTR",), {}), TypeError),
        ((level, ["INSTR"], {"width": 96}), TypeError),
        ((level, ["INSTR"], {"colour": "red"}), RuntimeError),
        ((level, ["RGB"], {}), ValueError),
    ]:
        with pytest.raises(error):
            lab_class(*wrong)
    lab = lab_class(level, ["RGB_INTERLEAVED"], {"width": "96", "height": "72"})
    for seed, error in [(np.int64(1), ValueError), (1.0, ValueError), (2**64, OverflowError)]:
        with pytest.raises(error):
            lab.reset(seed=seed)
    lab.reset(seed=-1)
    table = np.array(list(IMPALA_ACTIONS.values()), np.intc)
    lab.step(np.asfortranarray(table)[3], num_steps=4)
    assert in_process.double.ACTIONS[-1] != IMPALA_ACTIONS["strafe_right"]  # silently misread
    lab.close()
    for call in (lab.observations, lambda: lab.step(table[0])):
        with pytest.raises(RuntimeError):
            call()


@pytest.mark.parametrize("file", sorted(RECORDINGS.glob("*.npz")), ids=lambda f: f.stem)
@pytest.mark.parametrize(("torso", "parameters"), [("shallow", 1_230_426), ("deep", 1_628_010)])
def test_recordings_of_the_real_levels_pass_through_the_agent(file, torso, parameters):
    """Frames, instructions, rewards and ends as recorded; DMLAB30_RECORDINGS names a folder with all thirty."""
    with np.load(file) as data:
        frames, instructions, rewards = data["rgb"], data["instr"], np.append(0, data["reward"])
        rewards = rewards[data["steps"] if "steps" in data else np.arange(len(frames))]
    assert file.stem in SCORES
    assert (frames.shape[1:], frames.dtype) == ((72, 96, 3), np.uint8)
    made = Suite("dmlab30", (), _spaces(), tuple(IMPALA_ACTIONS), make_game=lambda _: None)
    agent = Agent(AgentConfig(torso=torso, head="shared"), made.spaces)
    assert agent.num_parameters == parameters  # IMPALA's
    steps = len(frames)
    row = AgentInput(
        frame=torch.from_numpy(frames)[:, None],
        tokens=torch.from_numpy(np.stack([tokenize(str(i), 32) for i in instructions]))[:, None],
        last_action=torch.zeros(steps, 1, dtype=torch.int64),
        last_reward=torch.from_numpy(rewards.astype(np.float32))[:, None],
        first=(torch.arange(steps) == 0)[:, None],
        level=torch.zeros(steps, 1, dtype=torch.int64),
    )
    with torch.no_grad():
        out = agent(row, LSTMState(torch.zeros(1, 256), torch.zeros(1, 256)))
        mute = agent(row._replace(tokens=torch.full_like(row.tokens, -1)), LSTMState(*torch.zeros(2, 1, 256)))
    assert out.logits.shape == (steps, 1, 9)
    assert torch.isfinite(out.logits).all()
    assert torch.isfinite(out.value).all()
    assert bool((out.logits != mute.logits).any()) == bool("".join(map(str, instructions)))


def _spaces():
    from impala_mi.types import Spaces

    return Spaces((72, 96, 3), "uint8", 9, 30, instructions=True)
