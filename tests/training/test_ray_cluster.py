"""Start and end of Ray, without Ray."""

import os
import subprocess

import pytest

from impala_mi.training import ray_cluster  # before Ray is imported

# isort: split
import ray

from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.host import reaper
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


def test_processes_of_the_caller_are_not_marked_and_ray_is(monkeypatch):
    marks = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(
        ray, "init", lambda **options: marks.append((os.environ.get(reaper.MARK), options["_temp_dir"]))
    )
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 99, "GPU": 0})
    config = tiny_config()
    with ray_cluster.running_ray(config, make_suite(config.env)):
        assert reaper.MARK not in os.environ
    [(mark, folder)] = marks
    assert mark == folder
