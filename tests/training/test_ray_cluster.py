"""Start and end of Ray, without Ray."""

import importlib.metadata
import os
import stat
import subprocess
from pathlib import Path

import pytest

from impala_mi.training import ray_cluster  # before Ray is imported

# isort: split
import ray

from impala_mi.envs.suites import make_suite
from impala_mi.errors import StartError, UserError
from impala_mi.host import reaper
from impala_mi.training import preflight
from tests.tiny import tiny_config


def test_a_ray_that_runs_in_this_process_is_refused_and_left_running(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("it belongs to the caller"))
    config = tiny_config()
    with (
        pytest.raises(UserError, match=r"^Ray is already running in this process; call ray.shutdown\(\) first$"),
        ray_cluster.running_ray(config, make_suite(config.env)),
    ):
        pass


def test_only_processes_of_the_session_are_killed_at_the_end_of_ray(monkeypatch, tmp_path):
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_cluster, "END_S", 0.01)
    own, of_the_caller = (
        subprocess.Popen(["sleep", "60"], env=os.environ | mark) for mark in ({reaper.MARK: str(tmp_path)}, {})
    )
    try:
        ray_cluster._end_ray(str(tmp_path))
        assert own.wait(timeout=10) == -9
        assert of_the_caller.poll() is None
    finally:
        own.kill()
        of_the_caller.kill()
        of_the_caller.wait()


@pytest.fixture
def starts(monkeypatch):
    """What each start of a private Ray saw: its options, and the environment and modes of files at that time."""
    seen = []

    def init(**options: object) -> None:
        mark = os.environ.get(reaper.MARK, "")
        file = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        seen.append({
            "temp_dir": options["_temp_dir"], "mark": mark, "mode": os.environ["RAY_AUTH_MODE"],
            "variable": os.environ.get("RAY_AUTH_TOKEN"), "file": file, "token": file.read_text(),
            "modes": [stat.S_IMODE(os.stat(path).st_mode) for path in (mark, file)],
        })  # fmt: skip

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 99, "GPU": 0})
    return seen


def run_ray():
    config = tiny_config()
    with ray_cluster.running_ray(config, make_suite(config.env)):
        assert reaper.MARK not in os.environ


def test_processes_of_the_caller_are_not_marked_and_ray_is(starts):
    run_ray()
    assert starts[0]["temp_dir"] == starts[0]["mark"] + "/ray"


def test_a_private_ray_lies_below_a_folder_of_its_user_with_a_token_of_its_own(starts, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    run_ray()
    run_ray()
    for start in starts:
        assert start["modes"] == [0o700, 0o600]
        assert start["file"].parent == Path(start["mark"])
        assert (start["mode"], start["variable"]) == ("token", None)
        assert len(start["token"]) == 64
        assert not start["file"].exists(), "it goes with the run"
        longest = f"{start['temp_dir']}/session_2026-11-28_13-11-38_007710_4194304/sockets/plasma_store"
        assert len(longest) <= 107, "more than the path of a socket can have"
    assert starts[0]["token"] != starts[1]["token"]
    assert os.environ["RAY_AUTH_TOKEN"] == "of another cluster"
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_a_cluster_that_is_named_keeps_its_own_token(starts, monkeypatch):
    variables = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "its own"}
    seen = []
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray_cluster, "check_cluster", lambda address: None)
    monkeypatch.setattr(ray, "init", lambda **_: seen.append({name: os.environ.get(name) for name in variables}))
    run_ray()
    assert seen == [variables]


def test_a_cluster_that_refuses_tells_where_the_token_belongs(monkeypatch):
    def refuse(**_: object) -> None:
        raise ConnectionError("Failed to connect")

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(ray_cluster, "check_cluster", lambda address: None)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(StartError, match=r"10.0.0.1:6379: Failed to connect; its token .* RAY_AUTH_TOKEN"):
        run_ray()


@pytest.mark.parametrize("version", ["2.9.3", "2.40.0", "2.51.2"])
def test_a_ray_without_tokens_is_refused(starts, monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    with pytest.raises(UserError, match=rf"^Ray {version} is installed; 2\.52 is the oldest .* 'ray>=2\.52'$"):
        run_ray()
    with pytest.raises(UserError, match="the oldest"):
        preflight.check(tiny_config())
    assert not starts


@pytest.mark.parametrize("version", ["2.52.0", "2.100", "3.0.0rc1"])
def test_a_ray_with_tokens_is_taken(starts, monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    run_ray()
    assert len(starts) == 1
