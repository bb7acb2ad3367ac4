import pytest
from hypothesis import given
from hypothesis import strategies as st

from impala_mi import config as configuration
from impala_mi.config import Config, build, load, to_yaml
from impala_mi.errors import UserError


def test_stable_keys():
    """Other programs use these names."""
    wanted = """seed run.root run.name env.suite env.levels env.action_repeat agent.torso agent.head
        agent.context_width actors.count actors.envs actors.inference learner.unroll_length learner.batch_size
        learner.num_gpus learner.learning_rate train.env_frames train.log_every_s train.checkpoint_every_s"""
    assert set(wanted.split()) <= set(configuration.keys())


def test_defaults_are_valid_and_survive_a_round_trip():
    text = to_yaml(Config())
    assert build("x", configuration.parse_yaml(text, "x")) == Config()


@pytest.mark.slow
@given(st.floats(1e-9, 1e3, allow_nan=False), st.integers(1, 10**12))
def test_numbers_survive_a_round_trip(rate, frames):
    made = build("x", {"learner": {"learning_rate": rate}, "train": {"env_frames": frames}})
    assert build("x", configuration.parse_yaml(to_yaml(made), "x")) == made


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.env_frames=1e9", 10**9),
        ("learner.learning_rate=1e-3", 1e-3),
        ("learner.learning_rate=1", 1.0),
        ("env.levels=[a, b]", ["a", "b"]),
        ("run.name=x-1.2", "x-1.2"),
        ("learner.max_grad_norm=null", None),
        ("train.deterministic=false", False),
    ],
)
def test_overrides(override, value):
    made = build("x", {}, [override])
    for part in override.partition("=")[0].split("."):
        made = getattr(made, part)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["learner.batchsize=4"], "unknown key 'learner.batchsize'; did you mean 'learner.batch_size'"),
        (["batch_size=4"], "unknown key 'batch_size'; did you mean 'learner.batch_size'"),
        (["lerner.batch_size=4"], "unknown key 'lerner'; did you mean 'learner'"),
        (["learner.zzz=4"], "unknown key 'learner.zzz'"),
        (["learner.batch_size=four"], "learner.batch_size='four'.*integer"),
        (["learner.batch_size=4.5"], "learner.batch_size=4.5.*integer"),
        (["learner.batch_size=true"], "learner.batch_size=True.*integer"),
        (["actors.count=0"], "actors.count=0.*greater than or equal to 1"),
        (["learner.discount=1.5"], "learner.discount=1.5.*less than or equal to 1"),
        (["learner.learning_rate=.nan"], "learner.learning_rate=nan"),
        (["learner.batch_size=31"], "learner.batch_size=31 must be a multiple of actors.envs=16"),
        (["env.levels=basic"], r"env.levels='basic'.*write a list: \[basic\]"),
        (["actors.count=2", "actors.per_level=1"], "x?actors: count=2 and per_level=1: set one of them to null"),
        (["learner.rho_clip=0.5"], "rho_clip.*must be at least c_clip"),
        (["run.name=../x"], "run.name='../x'"),
        (["learner.num_gpus=-1"], "learner.num_gpus=-1"),
        (["learner.num_gpus=2", "learner.ranks=4"], "ranks=4 and num_gpus=2: each GPU has one rank"),
        (["learner.ranks=3"], "batch_size=32 must be a multiple of the 3 ranks"),
        (["learner.ranks=4"], "2 rollouts of actors.envs=16 unrolls, which 4 ranks cannot share equally"),
        (
            ["learner.ranks=2", "train.deterministic=true", "train.checkpoint_every_updates=5"],
            "learner of one rank",
        ),
        (["learner"], "write it as key=value"),
        (["learner.batch_size.x=4"], "must be|batch_size"),
        (["seed.x=4"], "seed"),
        (["learner.batch_size=[1"], "not valid YAML"),
        (["train.deterministic=true"], "needs checkpoint_every_updates"),
        (["train.deterministic=true", "train.checkpoint_every_updates=5", "actors.count=3"], "actors.count x"),
        (["train.deterministic=true", "train.checkpoint_every_updates=5", "train.max_time_s=9"], "max_time_s"),
    ],
)
def test_bad_values_name_the_key_the_value_and_what_is_accepted(overrides, says):
    with pytest.raises(UserError, match=says) as e:
        build("my.yaml", {}, overrides)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "line 1|line 2"),
        ("seed: 1\nseed: 2", "line 1: the key 'seed' is given twice"),
        ("- 1", "is a mapping of sections, not list"),
        ("learner: 3", "learner=3"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_bad_files(tmp_path, text, says):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=says):
        load(str(file))


def test_an_empty_file_is_the_defaults(tmp_path):
    file = tmp_path / "empty.yaml"
    file.write_text("")
    assert load(str(file)) == Config()


@pytest.mark.parametrize("name", ["smoke", "doom", "babyai", "cartpole"])
def test_shipped_configurations(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # found in the package, not in the current folder
    assert load(name) == load(f"configs/{name}.yaml") == load(f"{name}.yaml")


def test_no_configuration():
    with pytest.raises(
        UserError,
        match="neither a file nor one of the shipped atari57, babyai, babyai40, bench, cartpole, ",
    ):
        load("doom.yml")
