import os
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impala_mi import config as configuration
from impala_mi.config import Config, build, load, to_yaml
from impala_mi.errors import UserError
from impala_mi.runs.folder import create, open_run


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
        (["seed=1:30"], "seed='1:30'.*integer"),
        (["learner.cuda_graphs=yes"], "learner.cuda_graphs='yes'.*boolean"),
        (["run.root=s3://bucket/runs"], "run.root='s3://bucket/runs'.*is a URL.*name it in run.mirror"),
        (['run.root="a\\0b"'], "holds control characters"),
        (['run.root="a\\eb"'], "holds control characters"),
        (["run.root=" + "\u3000" * 100], "the path is too long"),
        (["run.root=[/nope]"], r"run.root=\['/nope'\]: .*string"),
        (["run.root=" + "x" * 300], "the path is too long"),
        (["run.root=''"], "write the path of a folder"),
        (["train.score_episodes=1e30"], "train.score_episodes=1e.30: .*less than or equal to 1000000"),
        (["actors.timeout_s=1e300"], r"actors.timeout_s=1e\+300: .*less than or equal to 3155760000"),
        (["train.env_frames=1e16"], "less than or equal to 1000000000000000"),
        (["learner.learning_rate=1e300"], r"learning_rate=1e\+300"),
        (["learner.epsilon=1e-300"], "epsilon=1e-300"),
        (["seed=" + "x" * 200_000], r"seed='xxx.* \.\.\. xxx"),
        (["x" * 200_000 + "=1"], r"unknown key 'xxx.* \.\.\. xxx"),
        ([".".join(["a"] * 3000) + "=1"], "no key has 3000 parts"),
        (["train.deterministic=true", "train.checkpoint_every_updates=5", "actors.count=3"], "actors.count x"),
        (["train.deterministic=true", "train.checkpoint_every_updates=5", "train.max_time_s=9"], "max_time_s"),
    ],
)
def test_bad_values_name_the_key_the_value_and_what_is_accepted(overrides, says):
    with pytest.raises(UserError, match=says) as e:
        build("my.yaml", {}, overrides)
    assert str(e.value).isprintable()
    assert len(str(e.value)) < 500


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "line 1|line 2"),
        ("seed: 1\nseed: 2", "line 1: the key 'seed' is given twice"),
        ("- 1", "is a mapping of sections, not list"),
        ("learner: 3", "learner=3"),
        (
            "learner.batch_size: 64",
            "in a file a section is a mapping: 'learner:' and, indented below it, 'batch_size: ...'",
        ),
        ("env.dmlab.actions: x", "'env.dmlab:' and, indented below it, 'actions: ...'"),
        ("1: a\n1: b\nx: c\nx: d", "line 1: the key 1 is not a text"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_bad_files(tmp_path, text, says):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=says):
        load(str(file))


@pytest.mark.parametrize("text", ["", "# nothing", "learner:\nenv:\n  dmlab:\n  # actions: extended\n"])
def test_an_empty_file_or_section_is_the_defaults(tmp_path, text):
    file = tmp_path / "empty.yaml"
    file.write_text(text)
    assert load(str(file)) == Config()
    assert load(str(file), ["learner.batch_size=64"]).learner.batch_size == 64


def test_an_override_wins_over_its_alternative_and_says_so(tmp_path):
    file = tmp_path / "levels.yaml"
    file.write_text("actors: {per_level: 5}")
    with pytest.warns(UserWarning, match="actors.count on the command line replaces actors.per_level=5 of levels"):
        made = load(str(file), ["actors.count=2"])
    assert (made.actors.count, made.actors.per_level) == (2, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(str(file), ["actors.count=null"]).actors.per_level == 5
        assert load(str(file), ["actors.count=2", "actors.per_level=null"]).actors.count == 2


@pytest.mark.slow
def test_twenty_thousand_unknown_keys_are_refused_quickly(tmp_path):
    for indent in ("", "learner:\n  "):
        file = tmp_path / "many.yaml"
        file.write_text(indent + indent.replace("learner:\n", "").join(f"key{i}: 1\n" for i in range(20_000)))
        start = time.process_time()
        with pytest.raises(UserError, match=r"unknown key '(learner\.)?key0'"):
            load(str(file))
        assert time.process_time() - start < 5


def test_what_cannot_be_a_configuration(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"#" * (2**20 + 1))
    for name, says in [
        ("folder", "is a folder; name a YAML file"),
        ("fifo", "is neither a file nor a folder"),
        ("x" * 300, "too long"),
        ("binary", "it is no text in UTF-8"),
        ("large", "more than 1,048,576 bytes"),
        ("a\0b", "holds control characters"),
        ("\ud800", "no name of a file has"),
        ("x/" * 1000, "no configuration"),
        ("s3://x", "is a URL"),
    ]:
        with pytest.raises(UserError, match=says):
            load(name if "://" in name else str(tmp_path / name))
    with pytest.raises(UserError, match="no such user"):
        load("~nosuchuser/x")


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


@pytest.mark.parametrize("name", ["a\u00a0b", "a\u3000b", "caf\udce9", "\u202e", "\udcff" * 255])
def test_folders_may_have_any_name_without_control_characters(tmp_path, name):
    made = create(build("x", {"run": {"root": str(tmp_path)}}, []), name)
    assert open_run(str(made.path)).config.run.root == str(tmp_path)
    root = made.path / "runs"
    if "\udcff" in name or "\udce9" in name:
        with pytest.raises(UserError, match=r"run.root=.*is no text in UTF-8"):
            build("x", {"run": {"root": str(root)}}, [])
    else:
        run = create(build("x", {"run": {"root": str(root)}}, []), "x")
        assert run.config.run.root == str(root)
