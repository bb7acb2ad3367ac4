"""The processes and the folder of a killed run's Ray are removed, and no others."""

import os
import subprocess
import sys
import time

import pytest

from impala_mi.host import reaper


def sleeping(**env):
    return subprocess.Popen(["sleep", "600"], env=os.environ | env, start_new_session=True)


@pytest.mark.parametrize(("last", "said"), [(b"", reaper.ENDED + "\n"), (reaper.ENDS, "")])
def test_a_run_that_was_ended_from_outside_is_reported(tmp_path, last, said):
    done = subprocess.run(
        [sys.executable, "-I", reaper.__file__, str(tmp_path / "none")], input=last, capture_output=True, check=True
    )
    assert (done.stderr.decode(), done.stdout) == (said, b"")


@pytest.mark.slow
def test_processes_below_a_run_end_with_it_and_others_stay(tmp_path):
    folder = tmp_path / "session"
    folder.mkdir()
    (folder / "log").write_text("x")
    marked, other = sleeping(**{reaper.MARK: str(folder)}), sleeping(**{reaper.MARK: f"{folder}2"})
    read_end, write_end = os.pipe()
    process = subprocess.Popen([sys.executable, "-I", reaper.__file__, str(folder)], stdin=read_end)
    os.close(read_end)
    try:
        time.sleep(0.3)
        assert marked.poll() is None, "it was killed while the run was alive"
        os.close(write_end)
        assert marked.wait(timeout=10) == -9
        assert other.poll() is None
        assert process.wait(timeout=10) == 0
        assert not folder.exists()
    finally:
        for p in (marked, other, process):
            p.kill()
            p.wait()


def test_a_run_that_ends_by_itself_and_has_files_of_the_folder_open_is_spared(tmp_path):
    code = f"import runpy; print(runpy.run_path({reaper.__file__!r})['marked_processes']({str(tmp_path)!r}))"
    with open(tmp_path / "log", "w"):
        assert reaper._has_open_files(str(os.getpid()), str(tmp_path))
        assert subprocess.check_output([sys.executable, "-I", "-c", code], text=True) == "[]\n"
