"""Recorded steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from impala_mi.analysis.play import play
from impala_mi.analysis.recording import head_vectors, note_instructions, octave, record, thumbnail
from impala_mi.config import EnvConfig
from impala_mi.envs.tiny import WORDS
from impala_mi.nn.agent import Agent
from impala_mi.tokenizer import tokenize
from tests.envs.test_remote_games import vector
from tests.games import counting, in_processes
from tests.tiny import tiny_config


def test_octaves():
    assert octave(np.array([0, 1, 2, 3, 4, 7, 8, 1023, 1024])).tolist() == [0, 1, 2, 2, 3, 3, 4, 10, 11]


def test_steps_are_kept_evenly_and_as_the_agent_saw_them(config, suite):
    agent = Agent(config.agent, suite.spaces).eval()
    data = record(agent, suite, episodes=6, points=12, seed=1)
    assert set(data.level) == set(range(5))
    assert all((data.level == k).sum() <= 12 for k in range(5))
    memory = data.level == suite.level_names.index("memory")
    # of the octaves 0, 1, 2-3 and 4 equally many, as far as there are so many
    assert np.bincount(octave(data.time[memory])).tolist() == [3, 3, 3, 3]
    language = data.level == suite.level_names.index("language")
    assert (data.time[language] == 0).all()
    assert set(data.instruction[language]) <= set(WORDS)
    assert set(data.instruction[~language]) == {""}
    assert len(set(data.episode)) > 6 * 3
    assert all(len(set(data.level[data.episode == e])) == 1 for e in set(data.episode))
    assert data.frame.shape == (len(data.level), 5, 5, 1)
    first = memory & (data.time == 0)
    assert (data.frame[first].sum(axis=(1, 2, 3)) == 255).all()
    assert (data.frame[memory & (data.time > 0)] == 0).all()


def test_recordings_keep_the_pictures_of_the_suite(config, suite):
    agent = Agent(config.agent, suite.spaces).eval()
    plain = record(agent, suite, episodes=2, points=8, seed=1).frame
    pictured = record(agent, replace(suite, picture=lambda frame: np.repeat(255 - frame, 3, -1)), 2, 8, 1).frame
    np.testing.assert_array_equal(pictured, np.repeat(255 - plain, 3, -1))


def test_generated_weights_are_those_that_acted(config, suite):
    agent = Agent(config.agent, suite.spaces).eval()
    data = record(agent, suite, episodes=3, points=10, seed=1)
    assert {kind: v.shape[1] for kind, v in data.vectors.items()} == {
        "core": 32, "context": 8, "policy": 3 * 32, "value": 32
    }  # fmt: skip
    assert data.default == "policy"
    seen = []
    play(agent, suite, 3, 1, on_step=lambda _, __, action: seen.append(action.logits.numpy().copy()))
    every = np.concatenate(seen)
    with torch.inference_mode():
        logits = agent.head(torch.from_numpy(data.vectors["core"]), torch.from_numpy(data.level)).logits.numpy()
    distances = np.abs(logits[:, None] - every).max(-1)
    assert (distances.min(1) < 1e-5).all()


def test_a_head_without_generated_weights_is_recorded_too(suite, tmp_path):
    agent = Agent(tiny_config("agent.head=shared").agent, suite.spaces).eval()
    data = record(agent, suite, 2, 10, 1)
    assert list(data.vectors) == ["core"]
    assert data.default == "core"
    data.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as kept:
        assert kept["names"].tolist() == suite.level_names
        assert (kept["core"] == data.vectors["core"]).all()
        assert kept["instruction"].tolist() == data.instruction.tolist()


def test_mi_task_generates_one_matrix_a_level(suite):
    agent = Agent(tiny_config("agent.head=mi_task").agent, suite.spaces).eval()
    data = record(agent, suite, 2, 10, 1)
    assert len(np.unique(data.vectors["policy"].round(5), axis=0)) == 5


def test_vectors_do_not_depend_on_the_chunks(config, suite, monkeypatch):
    agent = Agent(config.agent, suite.spaces).eval()
    core, level = np.random.default_rng(0).normal(size=(7, 32)).astype(np.float32), np.arange(7) % 5
    with torch.inference_mode():
        whole = head_vectors(agent, core, level)
        monkeypatch.setattr("impala_mi.analysis.recording._CHUNK", 3)
        parts = head_vectors(agent, core, level)
    assert all(np.allclose(whole[kind], parts[kind], atol=1e-6) for kind in whole)


def test_games_keep_what_they_have_besides(suite):
    class Counting(type(suite.make_game("language"))):
        def counts(self):
            return {"hits": 3}

    noted, words = note_instructions(replace(suite, make_game=Counting), 4)
    game = noted.make_game("language")
    said = game.reset(1).instruction
    assert words == {tokenize(said, 4).tobytes(): said}
    assert game.counts() == {"hits": 3}
    with pytest.raises(AttributeError):
        _ = noted.make_game("catch").interrupt


@pytest.mark.slow
def test_instructions_that_change_are_noted_in_games_with_processes_too():
    def noted(change):
        suite, words = note_instructions(change(counting(EnvConfig(levels=["long"]))), 4)
        games, rows = vector(suite, 2)
        games.reset(rows[0])
        for row in rows[1:4]:
            games.step(np.zeros(2, np.int64), row)
        games.close()
        return sorted(words.values())

    assert noted(lambda suite: suite) == noted(lambda suite: in_processes(suite, "apart")) == [
        "word0", "word1", "word2", "word3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "small"), [((72, 96, 3), (36, 48, 3)), ((240, 320, 3), (35, 46, 3)), ((5, 5, 1), (5, 5, 1))]
)
def test_thumbnails_are_small(shape, small):
    assert thumbnail(np.zeros(shape, np.uint8)).shape == small
