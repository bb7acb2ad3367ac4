import csv
from pathlib import Path

import pytest

from impala_mi.config import EnvConfig, build
from impala_mi.envs import dmlab30
from impala_mi.envs.scores import capped_mean
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from tests.commands import impala, refused

PUBLISHED = Path(__file__).parents[1] / "data" / "dmlab30_published.csv"


@pytest.mark.parametrize(
    ("agent", "human_scores", "published"),
    [
        ("impala_deep_pbt", "paper", 49.36),  # printed as 49.4
        ("impala_deep_pbt", "code", 50.06),
        ("impala_experts", "paper", 44.45),  # printed as 44.5; 45.03 with a floor at 0
        ("impala_experts", "code", 45.74),
        ("r2d2", "paper", 78.33),  # printed as 78.3
        ("r2d2_plus", "code", 85.41),  # as DreamerV3's paper prints it
    ],
)
def test_published_levels_give_the_published_score(agent, human_scores, published):
    with open(PUBLISHED) as file:
        means = {row["level"]: float(row[agent]) for row in csv.DictReader(file)}
    levels = dmlab30.levels(human_scores, held_out=True)
    assert capped_mean(levels, means) == pytest.approx(published, abs=0.005)


def test_thirty_levels_two_of_them_with_held_out_names():
    train, held_out = (dmlab30.levels("paper", held_out=h) for h in (False, True))
    assert len({level.name for level in train}) == len({level.name for level in held_out}) == 30
    changed = {a.name: b.name for a, b in zip(train, held_out, strict=True) if a.name != b.name}
    assert changed == {name: name.replace("_train", "_test") for name in dmlab30.HELD_OUT_NAMES}
    assert [(a.random_score, a.reference_score) for a in train] == [
        (b.random_score, b.reference_score) for b in held_out
    ]
    assert all(level.random_score < level.reference_score for level in train)


@pytest.fixture
def cache(tmp_path):
    return {"level_cache": str(tmp_path / "cache")}


def test_the_suite_as_published(lab_double, cache):
    levels = ["rooms_exploit_deferred_effects_train", "rooms_watermaze"]
    suite = make_suite(EnvConfig(suite="dmlab30", levels=levels, dmlab=cache))
    assert (suite.action_repeat, suite.spaces.num_actions, suite.spaces.frame_shape) == (4, 9, (72, 96, 3))
    assert suite.truncation_is_terminal
    assert suite.spaces.instructions
    assert suite.level_names == levels
    held_out = suite.held_out()
    assert held_out.level_names == ["rooms_exploit_deferred_effects_test", "rooms_watermaze"]
    assert held_out.spaces == suite.spaces
    assert "human_scores=paper" in suite.scores_note
    extended = make_suite(EnvConfig(suite="dmlab30", levels=levels, dmlab=cache | {"actions": "extended"}))
    assert extended.spaces.num_actions == 15


@pytest.mark.parametrize(
    ("levels", "lab", "says"),
    [
        (["rooms_watermase"], {}, "no level 'rooms_watermase'; did you mean 'rooms_watermaze'"),
        (["rooms_collect_good_objects_test"], {}, "did you mean 'rooms_collect_good_objects_train'"),
        ("all", {}, "psychlab_arbitrary_visuomotor_mapping and .* show the images .* set env.dmlab.dataset_path"),
        (["psychlab_continuous_recognition"], {"dataset_path": "/nowhere"}, "'/nowhere': no 0001.png there"),
        (["rooms_watermaze"], {"level_cache": "/proc/none"}, "level_cache='/proc/none': cannot be written"),
    ],
)
def test_bad_input_is_told_before_anything_starts(lab_double, cache, levels, lab, says):
    with pytest.raises(UserError, match=says):
        make_suite(EnvConfig(suite="dmlab30", levels=levels, dmlab=cache | lab)).check()


def test_levels_are_listed_without_the_module(tmp_path):
    done = impala("levels", "dmlab30", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "psychlab_visual_search" in done.stdout
    assert "human_scores=paper" in done.stdout


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("env.dmlab.renderer=gpu", "env.dmlab.renderer='gpu': Input should be 'software' or 'hardware'"),
        ("env.dmlab.actions=16", "env.dmlab.actions=16"),
        ("env.dmlab.mixer_seed=-1", "env.dmlab.mixer_seed=-1"),
        ("env.dmlab.human_scores=both", "'paper' or 'code'"),
        ("env.dmlab.cache=x", "unknown key 'env.dmlab.cache'; did you mean 'env.dmlab.level_cache'"),
        ("env.suite=doom", "env.dmlab belongs to env.suite=dmlab30, not to 'doom'"),
    ],
)
def test_bad_settings_name_the_key(override, says):
    with pytest.raises(UserError, match=says):
        build("x", {"env": {"suite": "dmlab30", "dmlab": {"held_out": True}}}, [override])


def test_without_the_module_the_user_is_told_what_to_do(tmp_path):
    done = impala("train", "dmlab30", cwd=tmp_path)
    refused(done, "the Python module deepmind_lab is not installed")
    assert "docs/dmlab.md" in done.stderr
