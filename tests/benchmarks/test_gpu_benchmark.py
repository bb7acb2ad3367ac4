"""`benchmarks/gpu.py` on a CPU, where it runs with tiny sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLES = {
    "a": {"machine", "copy", "matrices"},
    "b": {"tests"},
    "c": {"speed"},
    "d": {"costs", "shares"},
    "e": {"work per step", "distance"},
    "f": {"updates", "top 20 by time, shallow, B = 4, graphs off"},
    "g": {"agreement"},
    "h": {"copies to the device", "staging of NumPy unrolls"},
    "i": {"acting, host to host", "whole run, noise, central inference"},
    "j": set(),
}
"""Tables of each part."""


def gpu(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(folder / "gpu"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    done = gpu(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_part_runs_and_fills_its_tables(folder):
    data = json.loads((folder / "gpu.json").read_text())
    assert {name: set(part["tables"]) for name, part in data["parts"].items()} == TABLES
    statuses = {name: part["status"] for name, part in data["parts"].items()}
    assert statuses == {name: "skipped" if name in "bj" else "done" for name in TABLES}
    for part in data["parts"].values():
        assert part["error"] is None
        assert not [note for note in part["notes"] if "failed" in note]
        for rows in part["tables"].values():
            assert not [row for row in rows if "result" in row], "a measurement did not work"
    page = (folder / "gpu.md").read_text()
    assert page.count("\n## ") == len(TABLES) + 1
    assert "| H100 or H200, shallow, best batch | at least 1,000,000 steps/s |" in page


@pytest.mark.slow
def test_one_part_is_repeated_and_compared(folder):
    before = folder / "before.json"
    before.write_text((folder / "gpu.json").read_text())
    done = gpu(folder, "--only", "a", "--compare", str(before))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GB/s, new / old" in done.stdout
    data = json.loads((folder / "gpu.json").read_text())
    assert set(data["parts"]) == set(TABLES), "the other parts stay"
    [row] = data["parts"]["a"]["tables"]["copy"]
    [earlier] = json.loads(before.read_text())["parts"]["a"]["tables"]["copy"]
    assert row != earlier


@pytest.mark.slow
def test_a_part_that_fails_or_hangs_is_recorded_and_the_next_one_runs(tmp_path):
    (tmp_path / "broken.py").write_text(
        "import time\ndef fail(run): raise ValueError('broken')\ndef hang(run): time.sleep(600)\n"
    )
    code = (
        f"import runpy, sys; sys.path[:0] = [{str(ROOT / 'benchmarks')!r}, {str(ROOT)!r}]\n"
        "from dataclasses import replace; from gpu_parts.part import PARTS\n"
        "for name, function in (('a', 'fail'), ('c', 'hang')):\n"
        "    PARTS[name] = replace(PARTS[name], target=f'broken:{function}')\n"
        "sys.argv = ['gpu.py', '--only', 'a,c,j', '--budget', '8', '--out', 'gpu']\n"
        f"runpy.run_path({str(ROOT / 'benchmarks' / 'gpu.py')!r}, run_name='__main__')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "a": "failed",
        "c": "out of time",
        "j": "skipped",
    }
    assert "ValueError: broken" in parts["a"]["error"]
    assert "ValueError: broken" in (tmp_path / "gpu.md").read_text()


def test_an_unknown_part_is_refused(tmp_path):
    done = gpu(tmp_path, "--only", "a,z")
    assert (done.returncode, "there is no part z" in done.stderr) == (2, True)
