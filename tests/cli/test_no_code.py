"""`--no-code`: a configuration that names code is refused before anything of it is imported."""

import sys

import pytest

from impala_mi.cli.main import COMMANDS, cli
from impala_mi.code_permission import allow_code, names_code
from impala_mi.config import build
from impala_mi.config_suites import GymConfig
from impala_mi.config_text import apply_overrides
from impala_mi.envs import gym
from impala_mi.errors import UserError
from impala_mi.hooks import load_hook
from impala_mi.yaml_text import dump_yaml
from tests.commands import impala, refused

CODE = {
    "env.suite": "evil:suite",
    "env.levels": "[CartPole-v1, 'evil:Name-v0']",
    "env.gym.wrappers": "['evil:wrap']",
    "env.gym.kwargs": "{CartPole-v1: {inner: [{id: 'evil:Name-v0'}]}}",
    "agent.head": "evil:head",
    "agent.core": "evil.sub:core",
    "agent.value_normaliser": "evil:Normaliser",
    "agent.match_parameters": "evil:head",
    "logging.sinks": "['évil:sink']",
}
GYM = ["env.suite=gym", "env.levels=[CartPole-v1]"]


@pytest.fixture
def evil(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('it was run')\n")
    yield tmp_path
    sys.modules.pop("evil", None)
    allow_code(True)


def config_file(folder, *overrides):
    """Configuration with these settings, as a file that somebody sent."""
    values: dict = {}
    apply_overrides(values, overrides, "sent")
    (folder / "sent.yaml").write_text(dump_yaml(values))
    return "sent.yaml"


@pytest.mark.parametrize(("key", "value"), CODE.items())
def test_each_field_is_refused_by_name_and_value(evil, key, value):
    settings = [setting for setting in GYM if not setting.startswith(key + "=")]
    done = impala("train", config_file(evil, *settings, f"{key}={value}"), "--no-code", cwd=evil)
    refused(done, "names code, which --no-code refuses to import")
    assert f"sent: {key}" in done.stderr
    assert "vil" in done.stderr.partition("names code")[0]
    done = impala("train", "cartpole", "--no-code", f"{key}={value}", cwd=evil)
    refused(done, key)


@pytest.mark.parametrize(
    "args",
    [
        ("train", "sent.yaml", "--print-config"),
        ("train", "sent.yaml"),
        ("bench", "envs", "sent.yaml"),
        ("bench", "train", "sent.yaml"),
        ("levels", "evil:suite"),
        ("resume", "run"),
        ("eval", "run"),
        ("tsne", "run"),
        ("video", "run"),
        ("units", "run"),
    ],
)
def test_every_command_that_reads_a_configuration_refuses_it(evil, args):
    config_file(evil, "env.suite=evil:suite")
    (evil / "run").mkdir()
    (evil / "run" / "config.yaml").write_text((evil / "sent.yaml").read_text())
    refused(impala(*args, "--no-code", cwd=evil), "env.suite='evil:suite': names code")


@pytest.mark.parametrize("command", ["pbt", "resume", "report"])
def test_a_rule_of_populations_is_refused(evil, command):
    section = "{rule: 'evil:rule', burn_in_frames: 5, space: {learner.learning_rate: {log_uniform: [0.1, 0.2]}}}"
    (evil / "sent.yaml").write_text(f"pbt: {section}\n")
    (evil / "run").mkdir()
    (evil / "run" / "config.yaml").write_text((evil / "sent.yaml").read_text())
    (evil / "run" / "pbt.jsonl").touch()
    refused(
        impala(command, "sent.yaml" if command == "pbt" else "run", "--no-code", cwd=evil), "pbt.rule='evil:rule'"
    )


def test_without_the_option_the_code_is_run(evil, monkeypatch):
    monkeypatch.syspath_prepend(str(evil))
    suite = build("x", {"env": {"suite": "evil:suite"}}).env.suite
    with pytest.raises(SystemExit, match="it was run"):
        load_hook(suite, "env.suite")


def test_the_option_ends_with_its_command(evil):
    refused(impala("train", "cartpole", "--no-code", "agent.head=evil:head", cwd=evil), "names code")
    assert impala("train", "cartpole", "agent.head=evil:head", "--print-config", cwd=evil).returncode == 0


def test_no_hook_is_imported_where_code_is_forbidden(evil):
    allow_code(False)
    with pytest.raises(UserError, match=r"^x.y='evil:thing': names code, which --no-code refuses to import$"):
        load_hook("evil:thing", "x.y")


def test_what_names_no_code_is_accepted(evil):
    settings = ("run.root=a:b", "run.mirror=s3://bucket/runs", "logging.mlflow.tracking_uri=databricks:mine")
    done = impala("train", "cartpole", "--no-code", "--print-config", *settings, cwd=evil)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", ["all", "1:30", "a: b", "http://a:b", ":x", "x:", "mi_task"])
def test_harmless_texts(text):
    assert not names_code("agent.head", text)


@pytest.mark.parametrize("level", ["evil:", " evil:x", "evil:a b", "evil://x", "sub-folder.evil:Name-v0"])
def test_whatever_gymnasium_would_import_is_refused(evil, level):
    """Gymnasium imports all that stands before a colon, whatever follows."""
    (evil / "sub-folder").mkdir()
    (evil / "sub-folder" / "evil.py").write_text("raise SystemExit('it was run')\n")
    done = impala("train", config_file(evil, "env.suite=gym", f"env.levels=['{level}']"), "--no-code", cwd=evil)
    refused(done, "names code")
    assert not names_code("env.levels", "ALE/Pong-v5")
    allow_code(False)
    with pytest.raises(UserError, match="names code"):
        gym._make(GymConfig(), level)


def test_every_command_has_the_option():
    for name in COMMANDS:
        command = cli.get_command(None, name)
        for each in getattr(command, "commands", {"": command}).values():
            assert [o for parameter in each.params for o in parameter.opts].count("--no-code") == 1, each.name
