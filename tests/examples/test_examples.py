"""The programs in examples/ run, and those that learn do learn."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import impala_mi
from tests.test_api import CARTPOLE, build, save_run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = ("env.levels=[always_left, always_right]", "learner.unroll_length=4", "learner.learning_rate=5e-3")
"""Settings of impala_lite for two levels of one step."""


@pytest.fixture
def example(monkeypatch):
    """Function that imports an example by name; hooks find its module as they do when it is run as a program."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for name in [path.stem for path in EXAMPLES.glob("*.py")]:
        sys.modules.pop(name, None)


@pytest.fixture
def cartpole_run(tmp_path: Path) -> Path:
    return save_run(tmp_path, build("cartpole", CARTPOLE), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("normaliser", ["none", "popart"])
def test_impala_lite_learns_opposite_actions_for_levels_that_look_alike(example, capsys, normaliser):
    """Random actions bring -1/3 each; a policy that ignores the task at most 0 on average."""
    means = example("impala_lite").main(["--frames", "2400", *QUICK, f"agent.value_normaliser={normaliser}"])
    assert set(means) == {"always_left", "always_right"}
    assert min(means.values()) > 0.9
    assert "learner/rho_mean" in capsys.readouterr().out


def test_impala_lite_keeps_the_final_observations_of_truncated_episodes(example):
    lite = example("impala_lite")
    config = lite.build("lite", lite.CONFIG, ["env={suite: 'tests.games:counting'}", "actors.envs=4"])
    suite = lite.make_suite(config.env)
    actor = lite.Actor(config, suite, 0)
    weights = actor.agent.state_dict()
    first, _ = actor.unroll(weights)
    kept = first.inputs.frame.copy()
    second, episodes = actor.unroll(weights)
    actor.envs.close()
    np.testing.assert_array_equal(first.inputs.frame, kept)  # the next unroll does not overwrite it
    np.testing.assert_array_equal(first.inputs.frame[-1], second.inputs.frame[0])
    finals = second.final_observations
    assert len(finals.time) == second.truncated.sum() > 0
    for t, column, frame in zip(finals.time, finals.column, finals.frame, strict=True):
        assert second.truncated[t, column]
        assert frame[2] == 1  # the game marks its last observation
    assert {episode.level for episode in episodes} <= set(range(4))


@pytest.mark.slow
def test_a_suite_of_ones_own_keeps_the_contract_and_is_played(example):
    own, lite = example("own_suite"), example("impala_lite")
    suite = own.corridor(impala_mi.EnvConfig())
    for level in suite.level_names:
        impala_mi.check_game(suite, level)
    overrides = ["env={suite: 'own_suite:corridor'}", "actors.envs=4", "learner.batch_size=8"]
    means = lite.main(["--frames", "800", *overrides])
    assert set(means) == set(suite.level_names)
    assert all(-1 <= mean <= 1 for mean in means.values())


@pytest.mark.slow
def test_a_head_of_ones_own_is_learnt_with(example):
    example("own_head")
    means = example("impala_lite").main(["--frames", "2400", *QUICK, "agent.head=own_head:film"])
    assert min(means.values()) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_suite", "own_head"])
def test_what_the_own_examples_train_and_score(example, name, tmp_path, monkeypatch, capsys):
    """Their configuration is valid, and their agents can be scored; Ray is left out."""
    module = example(name)

    def train(values, overrides):
        config = build(name, values, overrides)
        run = save_run(tmp_path, config, 1.0)
        return SimpleNamespace(status="done", counters=SimpleNamespace(env_frames=0), run=run)

    monkeypatch.setattr(module, "train", train)
    module.main(["seed=2"])
    out = capsys.readouterr().out
    assert out.count("mean return") == len(impala_mi.load_agent(tmp_path / "a").levels) > 1


@pytest.mark.slow
def test_acting_in_one_and_in_many_environments(example, cartpole_run, monkeypatch, capsys):
    act = example("act_in_gymnasium")
    one = act.main([str(cartpole_run), "--episodes", "2"])
    many = act.main([str(cartpole_run), "--episodes", "3", "--envs", "2"])
    assert (len(one), len(many)) == (2, 3)
    assert min(one + many) >= 5
    monkeypatch.setattr(impala_mi, "train", lambda *args, report: SimpleNamespace(run=cartpole_run))
    assert act.main(["--episodes", "2"]) == one
    act.show({"time_s": 1.0, "env_frames": 2.0})
    assert "mean return nan" in capsys.readouterr().out
