"""Films and video files."""

from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from impala_mi.analysis import film, video
from impala_mi.analysis.film import Film, FilmStep, load_map
from impala_mi.analysis.recording import record
from impala_mi.analysis.tsne import make_panel
from impala_mi.config import build
from impala_mi.envs.suites import make_suite
from impala_mi.envs.tiny import WORDS
from impala_mi.errors import UserError
from impala_mi.nn.agent import Agent
from impala_mi.types import Box, Episode
from tests.tiny import tiny_config


@pytest.fixture
def agent(config, suite):
    return Agent(config.agent, suite.spaces).eval()


def shoot(*args):
    films = []
    film.film_episodes(*args, films.append)
    return films


@pytest.fixture
def chart(agent, suite, tmp_path):
    data = record(agent, suite, 4, 20, 1)
    panel = make_panel("x", data, data.default, 1)
    data.save(tmp_path / "x.npz", kind=np.array(panel.kind), points=panel.points)
    return load_map(tmp_path / "x.npz")


def test_a_film_holds_every_step_as_it_was(agent, suite):
    catch = suite.level_names.index("catch")
    films = shoot(agent, suite, catch, 3, 1, None)
    assert [len(film.steps) for film in films] == [4, 4, 4]
    for one in films:
        assert one.level == "catch"
        assert one.episode.level == catch
        assert [step.reward for step in one.steps] == [0.0, 0.0, 0.0, None]
        assert all((step.frame > 0).any() for step in one.steps)
        assert all(step.policy.sum() == pytest.approx(1, abs=1e-5) for step in one.steps)
        assert all(np.isfinite(step.value) and step.place is None for step in one.steps)
    again = shoot(agent, suite, catch, 3, 1, None)
    assert [[s.action for s in f.steps] for f in films] == [[s.action for s in f.steps] for f in again]


def test_films_show_the_pictures_of_the_suite(agent, suite):
    catch = suite.level_names.index("catch")
    [plain] = shoot(agent, suite, catch, 1, 1, None)
    [pictured] = shoot(agent, replace(suite, picture=lambda frame: 255 - frame), catch, 1, 1, None)
    for a, b in zip(plain.steps, pictured.steps, strict=True):
        np.testing.assert_array_equal(b.frame, 255 - a.frame)


def test_words_and_values_are_the_agents(agent, suite):
    [one] = shoot(agent, suite, suite.level_names.index("language"), 1, 2, None)
    [step] = one.steps
    assert step.instruction in WORDS
    assert 0 < step.entropy <= np.log(3) + 1e-6


def test_values_are_in_units_of_returns(suite):
    agent = Agent(tiny_config("agent.value_normaliser=popart").agent, suite.spaces).eval()
    catch = suite.level_names.index("catch")
    [plain] = shoot(agent, suite, catch, 1, 1, None)
    agent.normaliser.mean[catch], agent.normaliser.second_moment[catch] = 30.0, 30.0**2 + 10.0**2
    [scaled] = shoot(agent, suite, catch, 1, 1, None)
    values = [10 * step.value + 30 for step in plain.steps]
    assert [step.value for step in scaled.steps] == pytest.approx(values)


@pytest.mark.slow
def test_a_step_that_the_map_holds_lies_where_it_lies(agent, suite, chart):
    low, high = chart.points.min(0), chart.points.max(0)
    [one] = shoot(agent, suite, 0, 1, 1, chart)
    for step in one.steps:
        assert ((step.place >= low) & (step.place <= high)).all()
    with torch.inference_mode():
        vectors = record(agent, suite, 4, 20, 1).vectors[chart.kind]
    near = np.linalg.norm(chart.find(vectors) - chart.points, axis=1)
    assert np.median(near) < 0.3 * np.linalg.norm(high - low)


def test_a_map_that_is_none_or_damaged(tmp_path):
    assert load_map(tmp_path / "none.npz") is None
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match="impala-mi tsne"):
        load_map(tmp_path / "x.npz")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_a_file_plays_and_ends_with_the_return(agent, suite, chart, tmp_path, ending):
    [one] = shoot(agent, suite, 0, 1, 1, chart)
    file = tmp_path / f"a{ending}"
    video.write_video(video.draw_film(one, suite.actions, suite.level_names, chart), file, 5)
    frames = iio.imread(file, plugin="pyav" if ending == ".mp4" else None)
    shape = (video.HEIGHT, video.HEIGHT + video.SIDE)
    assert frames.shape[1:3] == (shape if ending == ".mp4" else (shape[0] // 2, shape[1] // 2))
    if ending == ".mp4":
        assert len(frames) == len(one.steps) + video.END_FRAMES
        assert iio.immeta(file, plugin="pyav")["fps"] == 5
        assert np.abs(frames[-1].astype(int) - frames[-2]).mean() < 1
        middle = frames[-1][video.HEIGHT // 2 - 10 : video.HEIGHT // 2 + 10, : video.HEIGHT]
        assert middle.max() > 200  # the return stands there


def test_odd_shapes_many_actions_and_long_words(suite):
    names = [f"action_{i}" for i in range(12)]
    rng = np.random.default_rng(0)
    steps = [
        FilmStep(
            rng.integers(0, 255, (17, 31, 3), np.uint8), "go " * 80, 11, rng.dirichlet(np.ones(12)), v, None, r
        )
        for v, r in ((-1.0, 0.0), (2.0, -5.0), (2.0, 1.0))
    ]
    frames = list(video.draw_film(Film("x", steps, Episode(0, 1.0, 3)), names, ["x"], None))
    assert len({frame.shape for frame in frames}) == 1
    assert all(side % 2 == 0 for side in frames[0].shape[:2])


def test_numbers_are_no_pictures():
    config = build("x", {"env": {"suite": "gym", "levels": ["CartPole-v1"]}, "agent": {"torso": "mlp"}})
    suite = make_suite(config.env)
    agent = Agent(tiny_config().agent, suite.spaces).eval()
    with pytest.raises(UserError, match="shows 4 numbers and no pictures"):
        shoot(agent, suite, 0, 1, 1, None)


def test_videos_show_discrete_actions_only(suite):
    continuous = replace(suite, spaces=replace(suite.spaces, action=Box((0.0,), (1.0,))))
    agent = Agent(tiny_config().agent, continuous.spaces).eval()
    with pytest.raises(UserError, match="videos show discrete actions only"):
        shoot(agent, continuous, 0, 1, 1, None)
