"""What a population's configuration refuses."""

import pytest
import yaml

from impala_mi import config
from impala_mi.errors import UserError
from impala_mi.pbt.settings import load

RATE = {"learner.learning_rate": {"log_uniform": [1e-4, 1e-2]}}


def write(tmp_path, values=None, **pbt):
    file = tmp_path / "mine.yaml"
    run = {"env": {"suite": "tiny"}, "agent": {"torso": "mlp"}} | (values or {})
    file.write_text(yaml.safe_dump(run | {"pbt": {"members": 4, "space": RATE} | pbt}))
    return str(file)


def test_a_member_has_its_parameters_and_a_seed_of_its_own(tmp_path):
    population = load(write(tmp_path))
    seeds = {population.seed_of(p, i) for p in range(3) for i in range(24)}
    assert len(seeds) == 72
    member = population.member({"learner.learning_rate": 0.005}, seed=7)
    assert (member.learner.learning_rate, member.seed, type(member)) == (0.005, 7, config.Config)
    assert config.build("again", yaml.safe_load(config.to_yaml(member))) == member


@pytest.mark.parametrize(
    ("pbt", "message"),
    [
        ({"space": {}}, "space"),
        ({"space": {"learner.batch_size": {"choice": [8, 16]}}}, "'learner.batch_size' is not a parameter that a"),
        ({"space": {"learner.learningrate": {"fixed": 1.0}}}, "'learner.learningrate' is not a parameter"),
        ({"space": {"learner.learning_rate": {"fixed": 0.1}}}, "nothing to adapt"),
        ({"space": {"learner.learning_rate": {"choice": [0.1]}}}, "nothing to adapt"),
        ({"space": {"learner.learning_rate": {"log_uniform": [1e-2, 1e-4]}}}, "the smaller first"),
        ({"space": {"learner.learning_rate": {"log_uniform": [0.0, 1.0]}}}, "above 0"),
        ({"space": {"learner.learning_rate": {"log_uniform": [1e-4]}}}, "log_uniform"),
        ({"space": {"learner.learning_rate": {}}}, "one of log_uniform, choice and fixed, not none"),
        ({"space": {"learner.learning_rate": {"fixed": 1.0, "choice": [1.0, 2.0]}}}, "not choice and fixed"),
        ({"space": {"learner.epsilon": {"choice": [0.1, 0.2], "bounds": [0.15, 1.0]}}}, "do not hold"),
        ({"space": {"learner.epsilon": {"choice": [0.1, 0.1]}}}, "given twice"),
        ({"space": RATE | {"learner.discount": {"log_uniform": [0.9, 1.5]}}}, "pbt.space: learner.discount=1.5"),
        ({"space": RATE | {"learner.reward_clipping": {"choice": ["none", "hard"]}}}, "reward_clipping='hard'"),
        ({"space": RATE | {"learner.rho_clip": {"log_uniform": [0.5, 2.0]}}}, "must be at least c_clip"),
        (
            {
                "space": RATE
                | {
                    f"learner.{k}": {"choice": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]}
                    for k in ("epsilon", "value_cost", "trace_lambda", "entropy_cost")
                }
                | {"learner.reward_clipping": {"choice": ["none", "typo"]}}
            },
            "reward_clipping='typo'",
        ),
        ({"members": 1}, "pbt.members=1"),
        ({"rule": "truncation", "members": 2, "fraction": 0.2}, "fraction=0.2 of members=2 is no member"),
        ({"concurrent": 5}, "concurrent=5: more than the 4 members"),
        ({"least_episodes": 51}, "more than train.score_episodes=50"),
        ({"factor": 1.0}, "pbt.factor=1.0"),
        ({"burn_in_frames": 10**10}, "no member would ever decide"),
        ({"space": {"learner.learning_rate": {"log_unifrom": [1e-4, 1e-2]}}}, "overrides give the whole space"),
        ({"membres": 4}, "did you mean 'pbt.members'"),
    ],
)
def test_nonsense_is_refused(tmp_path, pbt, message):
    with pytest.raises(UserError) as refused:
        load(write(tmp_path, **pbt))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"deterministic": True, "checkpoint_every_updates": 5}}, "train.deterministic"),
        ({"run": {"mirror": "s3://bucket/runs"}}, "run.mirror"),
    ],
)
def test_what_a_population_cannot_do_is_refused(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, values))


def test_one_first_value_that_is_scaled_later_is_a_space(tmp_path):
    space = {"learner.learning_rate": {"choice": [1e-3], "bounds": [1e-4, 1e-2]}}
    assert load(write(tmp_path, space=space)).pbt.space["learner.learning_rate"].bounds == [1e-4, 1e-2]


def test_a_population_without_a_space_and_a_run_with_one_are_refused(tmp_path):
    file = tmp_path / "none.yaml"
    file.write_text("env: {suite: tiny}\n")
    with pytest.raises(UserError, match="impala-mi train"):
        load(str(file))
    with pytest.raises(UserError, match="impala-mi pbt"):
        config.load(write(tmp_path))
