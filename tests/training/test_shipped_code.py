"""Modules of the current folder that a cluster gets, without Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from impala_mi import config as configuration
from impala_mi.errors import UserError
from impala_mi.hooks import PACKAGE, add_current_folder
from impala_mi.training import preflight, shipped_code
from impala_mi.training.shipped_code import files_to_ship, runtime_env

CODE = {"env": {"suite": "my_games.suites:maze"}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, of a driver that joins a cluster: a module, a package, and what cannot be imported."""
    home = tmp_path / "home"
    for file in (
        "helper.py", "my_games/__init__.py", "my_games/suites.py", "my_games/deep/er.py", "my_games/maps/one.txt",
        "notes.txt", "not-a-module.py", ".secret/key.py", ".env.py", "runs/a/config.yaml", "impala_mi/__init__.py",
        "venv/pyvenv.cfg", "venv/site.py", "my_games/__pycache__/x.pyc", "my_games/.git/config",
        "my_games/.token", "my_games/runs/a/config.yaml", "my_games/runs/a/checkpoints/1/big",
    ):  # fmt: skip
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text("")
    monkeypatch.chdir(home)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv(shipped_code.SUBMITTED, raising=False)
    return home


def shipped(values=CODE):
    return [str(file.path) for file in files_to_ship(configuration.build("test", values))]


def test_modules_packages_and_their_data_are_shipped(folder):
    assert shipped() == [
        "helper.py", "my_games/__init__.py", "my_games/deep/er.py", "my_games/maps/one.txt", "my_games/suites.py",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("env.suite", "my_games:maze"),
        ("agent.head", "helper:film"),
        ("agent.core", "my_games.cores:Mine"),
        ("agent.value_normaliser", "helper:Normaliser"),
        ("logging.sinks", "[my_games.sinks:Table]"),
        ("env.gym.wrappers", "[my_games.wrappers:skip]"),
        ("env.gym.kwargs", "{all: {inner: 'my_games:Inner-v0'}}"),
        ("env.levels", "['my_games:Maze-v0']"),
    ],
)
def test_every_key_that_names_code_counts(folder, key, value):
    config = configuration.build("test", {}, ["env.suite=gym", f"{key}={value}"])
    assert {"helper.py", "my_games/suites.py"} <= {str(file.path) for file in files_to_ship(config)}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"env": {"suite": "gym", "levels": ["gymnasium:CartPole-v1"]}},
        {"env": {"suite": "impala_mi.envs.tiny:tiny"}},
        {"env": {"suite": "no_such_module:maze"}},
        {"env": {"suite": "sys:maze"}},
    ],
)
def test_nothing_is_shipped_without_code_of_this_folder(folder, values):
    for installed in ("gymnasium.py", "sys.py", "tiny.py"):
        (folder / installed).write_text("")
    assert shipped(values) == []


def test_nothing_is_shipped_to_a_ray_of_the_own(folder, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS")
    assert shipped() == []


def test_nothing_is_shipped_when_ray_copies_the_folder(folder, monkeypatch, tmp_path):
    env = {"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}}
    monkeypatch.setenv(shipped_code.SUBMITTED, json.dumps(env))
    assert shipped(), "the job went to another folder"
    copy = tmp_path / shipped_code.WORKING_DIRS / "_ray_pkg_1"
    copy.parent.mkdir()
    folder.rename(copy)
    monkeypatch.chdir(copy)
    assert shipped() == []


def test_packages_without_init_count(folder):
    (folder / "my_games/__init__.py").unlink()
    assert "my_games/suites.py" in shipped()
    (folder / "nested/inner").mkdir(parents=True)
    (folder / "nested/inner/code.py").write_text("")
    assert "nested/inner/code.py" not in shipped()
    assert "nested/inner/code.py" in shipped({"env": {"suite": "nested.inner.code:maze"}})


def test_an_installed_package_is_not_shipped(folder, tmp_path, monkeypatch):
    installed = tmp_path / "installed" / "my_games"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(installed.parent), *sys.path, str(folder)])
    assert shipped() == []


def test_a_folder_in_pythonpath_is_shipped(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", str(folder), *sys.path])
    assert "helper.py" in shipped()


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/more.py").write_text("")
    (folder / "my_games/linked").symlink_to(tmp_path / "elsewhere")
    (folder / "my_games/circle").symlink_to(folder / "my_games")
    (folder / "my_games/up").symlink_to(folder)
    (folder / "my_games/gone").symlink_to(folder / "nothing")
    os.mkfifo(folder / "my_games/pipe")
    paths = shipped()
    assert "my_games/linked/more.py" in paths
    assert not [path for path in paths if "circle" in path or "/up" in path or "gone" in path or "pipe" in path]


def test_too_much_is_refused_before_anything_starts(folder, monkeypatch):
    with open(folder / "my_games/maps/big", "wb") as big:
        big.truncate(shipped_code.MAX_BYTES)
    assert len(shipped()) == 6
    (folder / "helper.py").write_text("#")
    with pytest.raises(UserError) as error:
        shipped()
    message = str(error.value)
    assert message.startswith(f"current folder {str(folder)!r}: its modules and packages have 64 MiB")
    assert "'my_games/maps/big' alone 64" in message
    assert "install my_games on every node" in message
    monkeypatch.setattr(preflight, "make_suite", lambda config: pytest.importorskip("tests.games").counting(config))
    with pytest.raises(UserError, match="at most 64 MiB"):
        preflight.check(configuration.build("test", CODE))


def test_a_file_that_cannot_be_copied_is_named(folder, monkeypatch):
    def refuse(source, target):
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr(shipped_code.shutil, "copy", refuse)
    message = r"current folder '.*': '.*' cannot be read: Permission denied"
    with pytest.raises(UserError, match=message), runtime_env(configuration.build("test", CODE)):
        pass


def test_copies_are_private_and_removed(folder):
    (folder / "my_games/tool").write_text("")
    (folder / "my_games/tool").chmod(0o755)
    with runtime_env(configuration.build("test", CODE)) as made:
        [package] = map(Path, made["py_modules"])
        assert package.name == PACKAGE
        assert package.parent.stat().st_mode & 0o077 == 0
        assert os.access(package / "modules/my_games/tool", os.X_OK)
        assert (package / "modules/my_games/maps/one.txt").is_file()
    assert not package.parent.exists()


def test_modules_of_a_submitted_job_are_kept(folder, monkeypatch):
    env = {"runtime_env": {"py_modules": ["gcs://_ray_pkg_2.zip"]}}
    monkeypatch.setenv(shipped_code.SUBMITTED, json.dumps(env))
    with runtime_env(configuration.build("test", CODE)) as made:
        assert made["py_modules"][0] == "gcs://_ray_pkg_2.zip"
        assert len(made["py_modules"]) == 2


def test_no_environment_without_code(folder):
    with runtime_env(configuration.build("test", {})) as made:
        assert made is None


PROGRAM = """
import sys
from impala_mi.hooks import add_current_folder
sys.path.insert(0, sys.argv[1])  # as Ray does with the driver's folder
add_current_folder()
add_current_folder()
import chunk, helper, on_node
print(chunk.__file__, helper.__file__, on_node.__file__, sys.path[-2:])
"""
"""Program of a process of the cluster; `chunk` is a module of Python."""


def test_a_process_of_the_cluster_imports_what_was_shipped_behind_all_others(folder, tmp_path):
    node = tmp_path / "node"
    node.mkdir()
    for module in ("helper.py", "on_node.py", "chunk.py"):
        (node / module).write_text("")
    (folder / "chunk.py").write_text("raise RuntimeError")
    with runtime_env(configuration.build("test", CODE)) as made:
        package = Path(made["py_modules"][0])
        path = os.pathsep.join([str(package.parent), str(Path(configuration.__file__).parents[1])])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-P", "-c", PROGRAM, str(folder)], cwd=node, capture_output=True,
            env=os.environ | {"PYTHONPATH": path}, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    chunk, helper, on_node, last = done.stdout.split(maxsplit=3)
    assert not Path(chunk).is_relative_to(tmp_path)
    assert helper == str(package / "modules/helper.py")
    assert on_node == str(node / "on_node.py")
    assert last.strip() == str([str(package / "modules"), str(node)])


def test_without_shipped_modules_the_current_folder_goes_last(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", ["/first", "/second"])
    add_current_folder()
    add_current_folder()
    assert sys.path == ["/first", "/second", str(folder)]
