"""Signals that arrive while modules are imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Dataclasses and named tuples call exec() while modules are imported.
PROGRAM = """
import signal, sys
from impala_mi.cli import main
def get_command(*_):
    exec("signal.raise_signal(signal.Signals[sys.argv[2]])")
main._Commands.get_command = get_command
main.main()
"""


def run(program: str, name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program)
    paths = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"}
    command = [sys.executable, "-m", "program", "levels", name]  # Python ends a program run by -m differently
    return subprocess.run(command, env=paths, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_during_an_import_is_an_interruption(tmp_path, name):
    done = run(PROGRAM, name, tmp_path)
    assert done.returncode == 130, done
    assert done.stderr.strip() == "interrupted"


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    done = run("import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + PROGRAM, "SIGHUP", tmp_path)
    assert done.returncode == 2
    assert "No such command" in done.stderr
    assert "interrupted" not in done.stderr
