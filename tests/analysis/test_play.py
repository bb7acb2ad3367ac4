import numpy as np
import pytest

from impala_mi.analysis.evaluation import evaluate, summarise
from impala_mi.analysis.generated import record
from impala_mi.analysis.play import play
from impala_mi.analysis.tsne import draw, embed
from impala_mi.envs.base import Level, Suite
from impala_mi.errors import UserError
from impala_mi.nn.agent import Agent
from impala_mi.types import Episode
from tests.conftest import tiny_config
from tests.games import CountingGame


class Lottery(CountingGame):
    """Short and long episodes in turn; the return is the length."""

    def reset(self, seed):
        observation = super().reset(seed)
        self.length = 2 if seed % 2 else 40
        return observation

    def step(self, action):
        outcome = super().step(action)
        return outcome._replace(reward=1.0, terminated=self.time == self.length, truncated=False)


@pytest.mark.parametrize("episodes", [1, 5, 20])
def test_the_first_started_are_the_ones_that_count(suite, episodes):
    """Whichever ends first does not matter: short episodes are not favoured."""
    made = Suite("lottery", (Level("long"),), suite.spaces.__class__((3,), "float32", 3, 1, True), ("a", "b", "c"),
                 Lottery)  # fmt: skip
    CountingGame.log.clear()
    played = play(None, made, episodes, 3)[0]
    assert len(played) == episodes
    started = [entry[2] for entry in CountingGame.log if entry[0] == "reset"]
    # a column that finished has already begun an episode which never counts
    columns = min(8, episodes)
    assert len(started) == episodes + columns
    assert sum(e.length for e in played) == len([e for e in CountingGame.log if e[0] == "step"])


def test_an_agent_plays_every_level_the_same_way_under_a_seed(config, suite):
    agent = Agent(config.agent, suite.spaces).eval()
    a, b = (play(agent, suite, 4, 7) for _ in range(2))
    assert a == b
    assert [len(x) for x in a] == [4] * 5
    assert play(agent, suite, 4, 8) != a


def test_without_task_ids_the_level_is_hidden(suite):
    agent = Agent(tiny_config("agent.head=mi_task").agent, suite.spaces).eval()
    with pytest.raises(ValueError, match="cannot act without"):
        play(agent, suite, 1, 1, tell_task=False)


def test_summary_is_students_interval():
    s = summarise([Episode(0, r, 2) for r in (1.0, 2.0, 3.0)])
    assert (s.mean, s.episodes, s.length) == (2.0, 3, 2.0)
    assert s.stderr == pytest.approx(1 / 3**0.5)
    assert s.high - s.mean == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
    assert summarise([Episode(0, 1.0, 2)]).high == float("inf")


def test_clearly_better_means_intervals_apart():
    levels = (Level("a", 0, 10),)

    def result(returns, random):
        agent, other = ([Episode(0, r, 1) for r in x] for x in (returns, random))
        return evaluate(levels, [agent], [other])

    assert result([9.0, 10.0, 11.0], [0.0, 1.0, 2.0]).levels[0].clearly_better
    assert not result([1.0, 10.0, 11.0], [0.0, 1.0, 2.0]).levels[0].clearly_better
    assert result([20.0, 20.0], [0.0, 1.0]).capped_mean == 100.0
    assert evaluate(levels, [[Episode(0, 1.0, 1)]], None).levels[0].clearly_better is None


def test_recorded_weights_are_those_that_acted(config, suite):
    agent = Agent(config.agent, suite.spaces).eval()
    data = record(agent, suite, episodes=3, points=10, seed=1)
    assert data.weights.shape[1] == 3 * config.agent.core_width
    assert set(data.level) == set(range(5))
    assert all((data.level == k).sum() <= 10 for k in range(5))
    assert data.time[data.level == suite.level_names.index("memory")].max() == 4
    assert (data.time[data.level == suite.level_names.index("language")] == 0).all()
    with pytest.raises(UserError, match="generates no weights"):
        record(Agent(tiny_config("agent.head=shared").agent, suite.spaces).eval(), suite, 1, 1, 1)


def test_mi_task_generates_one_matrix_a_level(suite, tmp_path):
    agent = Agent(tiny_config("agent.head=mi_task").agent, suite.spaces).eval()
    data = record(agent, suite, 2, 10, 1)
    assert len(np.unique(data.weights.round(5), axis=0)) == 5
    points, method = embed(data.weights, 0)
    assert method == "PCA"
    assert points.shape == (len(data.weights), 2)
    draw(data, suite.level_names, 0, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5000


def test_embedding_keeps_clusters_apart():
    rng = np.random.default_rng(0)
    weights = np.concatenate([rng.normal(c, 0.1, (40, 64)) for c in (-1, 1)]).astype(np.float32)
    points, method = embed(weights, 0)
    assert method == "t-SNE"
    assert np.linalg.norm(points[:40].mean(0) - points[40:].mean(0)) > 2 * points[:40].std()


def test_one_point_can_be_drawn():
    assert embed(np.zeros((3, 4), np.float32), 0)[0].shape == (3, 2)
